"""Low-rank adapters of peft inside a transformers model: their parameters, and the weights with them merged.

The layers are put into the model itself, which stays what it is for the Trainer, the fast step and generate. What is
kept and pushed are the merged weights, an ordinary model that everything loads, with the adapter beside them: it is
small, for who has the base. The embeddings of added words are trained too, and are part of the adapter.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.config.fields import Parameters, param
from pipeline.utils.errors import ParameterError, in_one_line
from pipeline.utils.suggest import did_you_mean

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ADAPTER = "adapter"  # folder in that of a kept step
NAME = "default"  # peft's name of the only adapter
TOKENS = "token_adapter.trainable_tokens_delta"  # peft's name of embeddings that are trained row by row

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

    def check_here(self) -> None:
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

    def into(self, model: PreTrainedModel, added: range = range(0), revision: str | None = None) -> None:
        """Puts adapters into a model, drawn from torch's global random numbers; they begin by changing nothing.

        Args:
            added: token ids whose embeddings are trained beside the adapters.
            revision: of the base on the Hub, for who loads the adapter.

        Raises:
            ParameterError: when a target is no layer, or one that cannot have an adapter; when an adapter would change
                a weight that is frozen or shared; or when the family is unknown and no targets are given.
        """
        if self.method == "full":
            return
        from peft import LoraConfig, inject_adapter_in_model

        from pipeline.models.added_rows import train_rows

        family = str(model.config.model_type)
        targets = self.targets or TARGETS.get(family, ())
        if not targets:
            known = ", ".join(TARGETS)
            raise ParameterError(
                "peft.targets",
                f"is needed for {type(model).__name__}; known: {known}; it has {_endings(model)}",
            )
        self._check_targets(model, targets, added)
        parts = (model.get_input_embeddings(), model.get_output_embeddings()) if added else ()
        trained = {part.weight for part in parts if part.weight.requires_grad}
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(targets),
            fan_in_fan_out=family in CONV1D,
            use_dora=self.method == "dora",
            task_type="CAUSAL_LM",
        )
        config.base_model_name_or_path, config.revision = model.name_or_path, revision
        try:
            inject_adapter_in_model(config, model, NAME)
        except (ValueError, NotImplementedError) as error:  # no such module, or a kind of layer without adapters
            reason = in_one_line(error, 200)
            raise ParameterError(
                "peft.targets", f"{', '.join(targets)}: peft has no adapter for that ({reason})"
            ) from None
        for name, weight in model.named_parameters():
            weight.requires_grad_("lora_" in name or weight in trained)
        train_rows(model, added)

    def _check_targets(self, model: PreTrainedModel, targets: Sequence[str], added: range) -> None:
        modules = dict(model.named_modules())
        parts = {model.get_input_embeddings(): "input embedding", model.get_output_embeddings(): "output projection"}
        is_tied = len({part.weight for part in parts}) == 1
        for target in targets:
            chosen = {name: module for name, module in modules.items() if f".{name}".endswith(f".{target}")}
            if not chosen or not target:
                raise ParameterError(
                    "peft.targets",
                    f"{target!r} is no layer of {type(model).__name__}"
                    + did_you_mean(target, _endings(model).split(", ")),
                )
            for name, module in chosen.items():
                weight = getattr(module, "weight", None)
                if module in parts and (is_tied or added):
                    why = (
                        "shares its weights with the other one in"
                        if is_tied
                        else "holds the embeddings of added words, which are trained themselves, in"
                    )
                    raise ParameterError(
                        "peft.targets",
                        f"{name}: the {parts[module]} {why} {type(model).__name__}; name layers of the blocks",
                    )
                if weight is not None and not weight.requires_grad:
                    raise ParameterError(
                        "peft.targets", f"{target!r} puts an adapter on {name}, which model.freeze keeps as it is"
                    )


def _endings(model: Any) -> str:
    """The last parts of the names of all linear layers and embeddings, each once."""
    names = [
        name.split(".")[-1]
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None and module.weight.dim() == 2
    ]
    return ", ".join(dict.fromkeys(names))


def layers(model: Any) -> dict[str, Any]:
    """Name -> layer with an adapter; none where there are no adapters."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def merged(model: Any) -> dict[str, torch.Tensor]:
    """The state dict of the model without adapters that computes what this one does."""
    from pipeline.models.added_rows import with_rows

    found = layers(model)
    weights = {key: weight for key, weight in model.state_dict().items() if ".lora_" not in key}
    weights = {key.replace(".base_layer.", "."): weight for key, weight in weights.items()}
    for name, layer in found.items():
        alone = copy.deepcopy(layer)
        alone.merge()
        weights[f"{name}.weight"] = alone.get_base_layer().weight.detach()
    return with_rows(model, weights)


def adapter(model: Any) -> dict[str, torch.Tensor]:
    """A copy of the adapter's weights by the names that peft gives them in files; empty where there is none."""
    from pipeline.models.added_rows import ROWS

    if not layers(model):
        return {}
    names = {key: key.replace(f".{NAME}", "").replace(ROWS, TOKENS) for key in model.state_dict()}
    return {
        f"base_model.model.{names[key]}": weight.detach().to("cpu", copy=True).contiguous()
        for key, weight in model.state_dict().items()
        if ".lora_" in key or key.endswith(f".{ROWS}")
    }


def save_adapter(model: Any, tokenizer: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """An adapter as `AutoPeftModelForCausalLM.from_pretrained(folder)` reads it.

    It adds the rows of embeddings that the base lacks for the tokenizer that lies there.
    """
    from safetensors.torch import save_file

    from pipeline.models.added_rows import owners

    config = copy.copy(model.peft_config[NAME])
    if rows := {name: list(owner.added_ids) for name, owner in owners(model).items()}:
        config.trainable_token_indices = rows
        tokenizer.save_pretrained(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(weights, folder / "adapter_model.safetensors")


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """The model as its base, with added words as they were before they were trained."""
    from pipeline.models.added_rows import rows_as_begun

    found = layers(model).values()
    for layer in found:
        layer.enable_adapters(False)
    try:
        with rows_as_begun(model):
            yield
    finally:
        for layer in found:
            layer.enable_adapters(True)
