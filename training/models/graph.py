"""A torch module behind the interface of an exported graph, for evaluation and for comparing the two."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from bundle.stepper import Array, TensorSpec
from training.models.contract import Model, Translator


class TorchGraph:
    """`bundle.stepper.Graph` over one form of a module: numpy in and out, without gradients, on its device.

    Puts the module in eval mode at each run and back after it, so that an evaluation in mid-training has no
    dropout and leaves none behind.
    """

    def __init__(self, module: Model, form: Literal["step", "encode"] = "step") -> None:
        self.module = module
        self.form = form
        self.inputs: Mapping[str, TensorSpec]
        self.outputs: Mapping[str, TensorSpec]
        if form == "step":
            self.inputs, self.outputs, self._call = module.step_inputs, module.step_outputs, module.step
        elif isinstance(module, Translator):
            self.inputs, self.outputs, self._call = module.encode_inputs, module.encode_outputs, module.encode
        else:
            raise ValueError("only a translator has an encoder")

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Outputs in the order of `fetches`."""
        device = next(self.module.parameters()).device
        tensors = {name: torch.tensor(array, device=device) for name, array in feeds.items()}
        training = self.module.training
        if training:
            self.module.eval()
        try:
            with torch.inference_mode():
                outputs = self._call(tensors)
        finally:
            if training:
                self.module.train()
        return [outputs[name].float().cpu().numpy() for name in fetches]
