"""From a run folder to a bundle: rebuild, lower, verify, describe, pack.

This room knows torch (through `training`) and onnx. Nothing of it is needed to serve a bundle.
"""

from bundle.errors import VoisinError

__all__ = ("ExportError",)


class ExportError(VoisinError):
    """The run cannot become a bundle; the message says why in one line."""
