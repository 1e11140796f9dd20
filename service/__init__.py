"""The online room: an HTTP service over a folder of bundles. Imports bundle/, never torch, gensim or onnx."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("voisin")
except PackageNotFoundError:  # a source tree that was never installed
    VERSION = "0.0.0"
