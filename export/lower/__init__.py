"""Torch module -> ONNX graphs, built node by node from the weights.

Nothing is traced: no example's shape can be frozen into a graph, and the operators are the ones chosen here.
"""

import onnx

from bundle.manifest import Precision
from export.lower import recurrent, transformer
from export.lower.builder import OPSET
from training.models import Model
from training.models.recurrent import RecurrentLanguage, RecurrentTranslator
from training.models.transformer import TransformerLanguage, TransformerTranslator

__all__ = ["OPSET", "lower"]


def lower(model: Model, precision: Precision = "fp32") -> dict[str, onnx.ModelProto]:
    """The graphs of a bundle, by file name, with exactly the tensors of the module's step form.

    Args:
        model: a trained module; dropout has no part in its graphs.
        precision: how matrices are stored; all arithmetic is float32.

    Raises:
        TypeError: there is no lowering for this module.
        ValueError: a weight cannot be stored in that precision.
    """
    match model:
        case RecurrentLanguage():
            return {"model.onnx": recurrent.language(model, precision).build()}
        case TransformerLanguage():
            return {"model.onnx": transformer.language(model, precision).build()}
        case RecurrentTranslator():
            return {
                "encoder.onnx": recurrent.encoder(model, precision).build(),
                "decoder.onnx": recurrent.decoder(model, precision).build(),
            }
        case TransformerTranslator():
            return {
                "encoder.onnx": transformer.encoder(model, precision).build(),
                "decoder.onnx": transformer.decoder(model, precision).build(),
            }
    raise TypeError(f"no lowering for {type(model).__name__}")
