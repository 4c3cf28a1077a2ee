"""Rows of weights that cannot grow beyond a norm, in place of weight decay (ClipToGrok, by NiftyliuS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.callbacks.base import Callback
from pipeline.config.fields import param


@dataclass
class ClippedRows(Callback):
    """Scales the incoming weights of each neuron and head down to one norm after each step, where they have more.

    Of all linear layers but the output projection, as long as no engine shards them. Meant for `weight_decay: 0`.
    """

    intervenes: ClassVar[bool] = True

    norm: float = param(1.0, "largest L2 norm of the incoming weights of one output", gt=0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        head = model.get_output_embeddings()
        for layer in model.modules():
            if isinstance(layer, (nn.Linear, Conv1D)) and layer is not head and layer.weight.requires_grad:
                # Conv1D keeps its weights as (inputs, outputs).
                layer.weight.detach().renorm_(2, int(isinstance(layer, Conv1D)), self.norm)
