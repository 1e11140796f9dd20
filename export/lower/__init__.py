"""Torch module -> ONNX graphs, built node by node from the weights.

Nothing is traced: no example's shape can be frozen into a graph, and the operators are the ones chosen here.
"""

import onnx

from bundle.manifest import Form, Precision
from bundle.stepper import TensorSpec
from export.lower import fast, fast_recurrent, recurrent, transformer
from export.lower.builder import OPSET, GraphBuilder
from training.models import Model
from training.models.recurrent import RecurrentLanguage, RecurrentTranslator
from training.models.transformer import TransformerLanguage, TransformerTranslator

__all__ = ["OPSET", "Border", "borders", "lower"]

Border = tuple[dict[str, TensorSpec], dict[str, TensorSpec]]
"""Inputs and outputs."""


def lower(model: Model, precision: Precision = "fp32", form: Form = "plain") -> dict[str, onnx.ModelProto]:
    """The graphs of a bundle, by file name.

    Args:
        model: a trained module; dropout has no part in its graphs.
        form: `plain`, or `fast`, which all models have but recurrent translators.
        precision: how matrices are stored. Arithmetic is float32, but for fast int8 graphs: those multiply
            whole numbers.

    Raises:
        TypeError: there is no lowering for this module.
        ValueError: a weight cannot be stored in that precision, or there is no such form of this module.
    """
    return {name: builder.build() for name, builder in _builders(model, precision, form).items()}


def borders(model: Model, form: Form = "plain") -> dict[str, Border]:
    """What the graphs of `lower` declare, by file name: in the plain form what the module itself takes and
    gives."""
    translates = isinstance(model, RecurrentTranslator | TransformerTranslator)
    name = "decoder.onnx" if translates else "model.onnx"
    if form == "fast" and isinstance(model, RecurrentLanguage):
        return {name: fast_recurrent.border(model)}
    if form == "fast":
        assert isinstance(model, TransformerLanguage | TransformerTranslator)
        found = {name: fast.border(model)}
        if isinstance(model, TransformerTranslator):
            found["encoder.onnx"] = fast.encoder_border(model)
        return found
    found = {name: (dict(model.step_inputs), dict(model.step_outputs))}
    if isinstance(model, RecurrentTranslator | TransformerTranslator):
        found["encoder.onnx"] = dict(model.encode_inputs), dict(model.encode_outputs)
    return found


def _builders(model: Model, precision: Precision, form: Form) -> dict[str, GraphBuilder]:
    match model:
        case TransformerLanguage() if form == "fast":
            return {"model.onnx": fast.language(model, precision)}
        case TransformerTranslator() if form == "fast":
            return {
                "encoder.onnx": fast.encoder(model, precision),
                "decoder.onnx": fast.decoder(model, precision),
            }
        case RecurrentLanguage() if form == "fast":
            return {"model.onnx": fast_recurrent.language(model, precision)}
        case _ if form == "fast":
            raise ValueError("a recurrent translator has no fast form; export it as plain")
        case RecurrentLanguage():
            return {"model.onnx": recurrent.language(model, precision)}
        case TransformerLanguage():
            return {"model.onnx": transformer.language(model, precision)}
        case RecurrentTranslator():
            return {
                "encoder.onnx": recurrent.encoder(model, precision),
                "decoder.onnx": recurrent.decoder(model, precision),
            }
        case TransformerTranslator():
            return {
                "encoder.onnx": transformer.encoder(model, precision),
                "decoder.onnx": transformer.decoder(model, precision),
            }
    raise TypeError(f"no lowering for {type(model).__name__}")
