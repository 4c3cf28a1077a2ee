"""Low-rank adapters of peft inside a transformers model: their parameters, and the weights with them merged.

The layers are put into the model itself, which stays what it is for the Trainer, the fast step and generate. What is
kept and pushed are the merged weights, an ordinary model that everything loads, with the adapter beside them: it is
small, for who has the base. Embeddings of added words are trained too, and stand in the merged weights alone.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.parameters import ParameterError, Parameters, param

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ADAPTER = "adapter"  # folder in that of a kept step
NAME = "default"  # peft's name of the only adapter

# model_type -> linear layers of the blocks. GPT-2's are Conv1D, whose weights lie transposed.
TARGETS = {
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "gpt_neox": ("query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"),
}
CONV1D = ("gpt2",)


@dataclass(frozen=True)
class Peft(Parameters):
    """Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685; DoRA, Liu et al. 2024, arXiv 2402.09353).

    The base model's weights stay as they are, but for the embeddings of a vocabulary that was added.
    """

    method: Literal["full", "lora", "dora"] = param("lora", "full: no adapter, all weights are trained")
    r: int = param(16, "rank of the adapters", ge=1)
    alpha: int = param(32, "they are scaled by alpha / r", ge=1)
    dropout: float = param(0.0, "of what goes into them", ge=0, lt=1)
    targets: tuple[str, ...] = field(
        default=(), metadata={"help": "ends of the names of layers; []: all linear layers of the blocks"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method != "full" and importlib.util.find_spec("peft") is None:
            raise ParameterError("method", f"{self.method} needs peft; pip install 'groklab[peft]'")

    def check_whole(self, args: Any) -> None:
        """Refuses adapters where processes have parts of the weights, which cannot be merged there.

        Raises:
            ParameterError: under ZeRO-3 and FSDP.
        """
        from transformers.integrations import is_deepspeed_zero3_enabled

        if self.method != "full" and (is_deepspeed_zero3_enabled() or args.fsdp):
            raise ParameterError("peft", "needs whole weights, which ZeRO-3 and FSDP do not keep; ZeRO-2 does")

    def into(self, model: PreTrainedModel, train_embeddings: bool) -> None:
        """Puts adapters into a model, drawn from torch's global random numbers; they begin by changing nothing.

        Raises:
            ParameterError: when there is no such layer, or the family is unknown and no targets are given.
        """
        if self.method == "full":
            return
        from peft import LoraConfig, inject_adapter_in_model

        family = str(model.config.model_type)
        targets = self.targets or TARGETS.get(family, ())
        if not targets:
            raise ParameterError("peft.targets", f"is needed for {type(model).__name__}; known: {', '.join(TARGETS)}")
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(targets),
            fan_in_fan_out=family in CONV1D,
            use_dora=self.method == "dora",
            task_type="CAUSAL_LM",
        )
        config.base_model_name_or_path = model.name_or_path
        try:
            inject_adapter_in_model(config, model, NAME)
        except ValueError:
            raise ParameterError(
                "peft.targets", f"{', '.join(targets)}: no such layers in {type(model).__name__}"
            ) from None
        for name, weight in model.named_parameters():
            weight.requires_grad_("lora_" in name)
        if train_embeddings:
            for part in (model.get_input_embeddings(), model.get_output_embeddings()):
                part.weight.requires_grad_(True)


def layers(model: Any) -> dict[str, Any]:
    """Name -> layer with an adapter; none where there are no adapters."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def merged(model: Any) -> dict[str, torch.Tensor]:
    """The state dict of the model without adapters that computes what this one does."""
    found = layers(model)
    weights = {key: weight for key, weight in model.state_dict().items() if ".lora_" not in key}
    weights = {key.replace(".base_layer.", "."): weight for key, weight in weights.items()}
    for name, layer in found.items():
        alone = copy.deepcopy(layer)
        alone.merge()
        weights[f"{name}.weight"] = alone.get_base_layer().weight.detach()
    return weights


def adapter(model: Any) -> dict[str, torch.Tensor]:
    """A copy of the adapter's weights by the names that peft gives them in files; empty where there is none."""
    return {
        f"base_model.model.{key.replace(f'.{NAME}', '')}": weight.detach().to("cpu", copy=True).contiguous()
        for key, weight in model.state_dict().items()
        if ".lora_" in key
    }


def save_adapter(model: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """An adapter as `PeftModel.from_pretrained(base, folder)` reads it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.peft_config[NAME].save_pretrained(str(folder))
    save_file(weights, folder / "adapter_model.safetensors")


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """The model as its base, but for embeddings."""
    found = layers(model).values()
    for layer in found:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in found:
            layer.enable_adapters(True)
