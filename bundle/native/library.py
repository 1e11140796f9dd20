"""The kernels, compiled from the C files of this folder, and the shapes of what is handed to them.

They are a part of the installation: `pip install` compiles them where there is a C compiler, and goes on
without them where there is none (`ext-modules` in pyproject.toml).
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any, Final

PROVIDER: Final = "CPUKernels"
"""What stands where others name an execution provider of onnxruntime."""

MODULE: Final = "bundle.native._kernels"
#: Instructions that the kernels are made of, as Linux calls them.
NEEDED: Final = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma"})

_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float


def _layout(name: str, **fields: Any) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


# As kernels.h has them, field by field.
Product = _layout(
    "Product", packed=_POINTER, offset=_POINTER, scales=_POINTER, bias=_POINTER, inputs=_INT, outputs=_INT
)
Norm = _layout("Norm", weight=_POINTER, bias=_POINTER, inverse=_FLOAT)
Block = _layout(
    "Block",
    self_norm=Norm,
    inputs=Product,
    self_output=Product,
    cross_norm=Norm,
    query=Product,
    cross_output=Product,
    feed_norm=Norm,
    up=Product,
    down=Product,
)
Network = _layout(
    "Network",
    tokens=_POINTER,
    token_scales=_POINTER,
    positions=_POINTER,
    blocks=ctypes.POINTER(Block),
    memory=ctypes.POINTER(Product),
    last=Norm,
    output=Product,
    token_scale=_FLOAT,
    epsilon=_FLOAT,
    position_count=_INT,
    last_position=_INT,
    depth=_INT,
    memory_depth=_INT,
    hidden=_INT,
    heads=_INT,
    inner=_INT,
    vocab=_INT,
    has_source=_INT,
    gelu=_INT,
)
Decoding = _layout(
    "Decoding",
    ids=_POINTER,
    counts=_POINTER,
    lengths=_POINTER,
    picks=_POINTER,
    source_counts=_POINTER,
    keys=ctypes.POINTER(_POINTER),
    values=ctypes.POINTER(_POINTER),
    memory_keys=ctypes.POINTER(_POINTER),
    memory_values=ctypes.POINTER(_POINTER),
    logits=_POINTER,
    best_scores=_POINTER,
    best_ids=_POINTER,
    attention=_POINTER,
    rows=_INT,
    time=_INT,
    picked=_INT,
    capacity=_INT,
    source=_INT,
    best=_INT,
)
Encoding = _layout(
    "Encoding",
    ids=_POINTER,
    counts=_POINTER,
    keys=ctypes.POINTER(_POINTER),
    values=ctypes.POINTER(_POINTER),
    rows=_INT,
    source=_INT,
)

Recurrent = _layout(
    "Recurrent",
    table=_POINTER,
    table_scales=_POINTER,
    layers=ctypes.POINTER(Product),
    output=Product,
    inverse=_FLOAT,
    depth=_INT,
    hidden=_INT,
    vocab=_INT,
)
Reading = _layout(
    "Reading",
    ids=_POINTER,
    counts=_POINTER,
    picks=_POINTER,
    states=ctypes.POINTER(_POINTER),
    logits=_POINTER,
    best_scores=_POINTER,
    best_ids=_POINTER,
    rows=_INT,
    time=_INT,
    picked=_INT,
    best=_INT,
)

Going = _layout(
    "Going",
    banned=_POINTER,
    best_scores=_POINTER,
    best_ids=_POINTER,
    scores=_POINTER,
    ids=_POINTER,
    end=ctypes.c_int64,
    microseconds=ctypes.c_int64,
    most=_INT,
    done=_INT,
)

NONE, FOREIGN_ID, TOO_LONG, MORE_POSITIONS = range(4)
"""What a run answers (enum Fault)."""


def compiled() -> str | None:
    """The file of the library, None where there is none."""
    spec = importlib.util.find_spec(MODULE)
    return None if spec is None else spec.origin


@cache
def kernels() -> ctypes.CDLL | None:
    """The library; None where it was not compiled, or this processor lacks an instruction that it needs."""
    path = compiled()
    if path is None or not _flags() >= NEEDED:
        return None
    library = ctypes.CDLL(path)
    long = ctypes.c_int64
    ahead = [_POINTER, _POINTER, _POINTER, _POINTER]
    for name, result, arguments in (
        ("voisin_pack", None, [_POINTER, long, long, _INT, _INT, _INT, _POINTER, _POINTER]),
        ("voisin_scratch", long, [_POINTER, long, long]),
        ("voisin_recurrent_scratch", long, [_POINTER]),
        ("voisin_decode", _INT, [_POINTER, _POINTER, _POINTER]),
        ("voisin_encode", _INT, [_POINTER, _POINTER, _POINTER]),
        ("voisin_read", _INT, [_POINTER, _POINTER, _POINTER]),
        ("voisin_ahead", _INT, ahead),
        ("voisin_read_ahead", _INT, ahead),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _flags() -> frozenset[str]:
    """What the processor can do, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split()) for line in lines if line.startswith("flags")), frozenset())
