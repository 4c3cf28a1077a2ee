"""Where models of the families that are compiled have the weights, rates of dropout and sizes that the code reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import GPT2LMHeadModel, GPTNeoXForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

# The enum of step.h, by the names of transformers.
ACTIVATIONS = {"gelu_pytorch_tanh": 0, "gelu_new": 0, "relu": 1, "gelu": 2}


class CompiledFamily(NamedTuple):
    """The names of a family's modules, and of an attribute after a colon; those below `stack` are of each block."""

    title: str
    model: type[PreTrainedModel]
    embeddings: tuple[str, ...]  # of tokens, then of positions if they are learned
    stack: str
    parts: tuple[str, ...]  # as `Parts::Block` of step.h has them
    norm: str  # the last
    linear: type[nn.Module]  # of the blocks
    activation: str  # the field of the configuration
    attention: str
    embedding_dropout: str
    attention_dropout: str
    residual_dropouts: tuple[str, str]


FAMILIES = {
    "gpt2": CompiledFamily(
        "GPT-2", GPT2LMHeadModel, ("transformer.wte", "transformer.wpe"), "transformer.h",
        ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"), "transformer.ln_f",
        Conv1D, "activation_function", "attn",
        "transformer.drop:p", "attn.attn_dropout:p", ("attn.resid_dropout:p", "mlp.dropout:p"),
    ),
    "gpt_neox": CompiledFamily(
        "GPT-NeoX", GPTNeoXForCausalLM, ("gpt_neox.embed_in",), "gpt_neox.layers",
        ("input_layernorm", "attention.query_key_value", "attention.dense",
         "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"), "gpt_neox.final_layer_norm",
        nn.Linear, "hidden_act", "attention",
        "gpt_neox.emb_dropout:p", "attention:attention_dropout", ("post_attention_dropout:p", "post_mlp_dropout:p"),
    ),
}  # fmt: skip


class WeightLayout:
    """A model by its family."""

    def __init__(self, model: Any, family: CompiledFamily):
        self.model, self.family = model, family
        self.blocks: list[Any] = list(model.get_submodule(family.stack))
        self.head: nn.Linear = model.get_output_embeddings()
        self.is_tied = getattr(self.head, "weight", None) is model.get_submodule(family.embeddings[0]).weight
        self.drops = [
            _places(model, [family.embedding_dropout]),
            *(
                [place for block in self.blocks for place in _places(block, names)]
                for names in ([family.attention_dropout], family.residual_dropouts)
            ),
        ]

    def names(self) -> list[str]:
        """The weights as the compiled code gets them, by name."""
        family = self.family
        modules = [
            *(f"{family.stack}.{number}.{part}" for number in range(len(self.blocks)) for part in family.parts),
            family.norm,
        ]
        head = [] if self.is_tied else [name for name, module in self.model.named_modules() if module is self.head]
        return [
            *(f"{name}.weight" for name in family.embeddings),
            *(f"{module}.{part}" for module in modules for part in ("weight", "bias")),
            *(f"{name}.weight" for name in head),
        ]

    def sizes(self) -> dict[str, Any]:
        """The fields of `Sizes` that are the model's."""
        config, family = self.model.config, self.family
        words, *places = (self.model.get_submodule(name).weight for name in family.embeddings)
        return {
            "words": len(words), "width": words.shape[1], "heads": config.num_attention_heads,
            "layers": len(self.blocks), "places": len(places[0]) if places else 0,
            "inner": len(self.blocks[0].get_submodule(family.parts[4]).bias), "pairs": self.rotation(1).shape[-1],
            "epsilon": self.model.get_submodule(family.norm).eps, "is_tied": self.is_tied,
            "activation": ACTIVATIONS[getattr(config, family.activation)], "is_neox": family.linear is nn.Linear,
            "is_parallel": getattr(self.blocks[0], "use_parallel_residual", False),
        }  # fmt: skip

    def rotation(self, length: int) -> torch.Tensor:
        """Cosines and sines by which rotary positions turn queries and keys, (length, 2, pairs)."""
        if len(self.family.embeddings) > 1:
            return torch.empty(length, 2, 0)
        both = self.model.base_model.rotary_emb(torch.empty(0), position_ids=torch.arange(length)[None])
        # Each angle is there twice, for the two numbers of a pair.
        return torch.stack([part[0, :, : part.shape[-1] // 2] for part in both], 1).contiguous()

    def rates(self) -> list[set[float]]:
        """Rates of dropout of embeddings, attention and residuals; more than one where layers differ."""
        return [{getattr(module, name) if module.training else 0.0 for module, name in places} for places in self.drops]


def _places(model: nn.Module, names: Any) -> list[tuple[nn.Module, str]]:
    parts = [name.split(":") for name in names]
    return [(model.get_submodule(module), attribute) for module, attribute in parts]
