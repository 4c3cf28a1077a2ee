"""Small GPT-2 and GPT-NeoX models, and variants that look like GPT-2 at their first weights or in eval mode."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block

from pipeline.data.rows import Rows

VOCABULARY, POSITIONS = 24, 16
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "vocab_size": VOCABULARY}
GPT2 = {**NO_TOKENS, "n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": POSITIONS}
NEOX = {
    **NO_TOKENS, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}  # fmt: skip
OFF = {"gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"), "gpt_neox": ("attention_dropout", "hidden_dropout")}


def rows(seed: int = 0) -> Rows:
    """Rows of two lengths, with answers of two tokens."""
    tokens = torch.randint(1, VOCABULARY, (8, 7), generator=torch.Generator().manual_seed(seed))
    return Rows(tokens, torch.tensor([4, 5] * 4), torch.full((8,), 2))


def model_of(family: str, **fields: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**{**GPT2, **fields}))
    return GPTNeoXForCausalLM(GPTNeoXConfig(**{**NEOX, **fields}))


def results(model: Any, logits: Callable[..., torch.Tensor]) -> tuple[float, dict[str, torch.Tensor | None]]:
    """The loss of an update in train mode, and the gradient of every parameter."""
    batch = rows().__getitems__(torch.arange(8))
    model.train()
    model.zero_grad(set_to_none=True)
    loss = nn.functional.cross_entropy(logits(model, batch).float().flatten(0, 1), batch["labels"].flatten())
    loss.backward()
    return float(loss.detach()), {name: weight.grad for name, weight in model.named_parameters()}


class ShiftedAttention(GPT2Attention):
    """Adds a share of the state before, which is zero at first."""

    def __init__(self, *inputs: Any, **kwargs: Any):
        super().__init__(*inputs, **kwargs)
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, hidden_states: torch.Tensor, *inputs: Any, **kwargs: Any) -> Any:
        before = nn.functional.pad(hidden_states, (0, 0, 1, 0))[:, :-1]
        return super().forward(hidden_states + self.shift * before, *inputs, **kwargs)


class LayerDrop(GPT2Block):
    """A block that training leaves out at times."""

    def forward(self, hidden_states: torch.Tensor, *inputs: Any, **kwargs: Any) -> Any:
        is_dropped = self.training and torch.rand(()) < 0.1
        return hidden_states if is_dropped else super().forward(hidden_states, *inputs, **kwargs)


class Scaled(GPT2LMHeadModel):
    """Logits with a softcap."""

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        found = super().forward(*inputs, **kwargs)
        found.logits = 30 * torch.tanh(found.logits / 30)
        return found


class Smeared(nn.Linear):
    """A projection that looks at the position before."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input + 0 * nn.functional.pad(input, (0, 0, 1, 0))[..., :-1, :])


def attention_shifted(model: Any) -> None:
    for i, block in enumerate(model.transformer.h):
        other = ShiftedAttention(model.config, layer_idx=i)
        other.load_state_dict(block.attn.state_dict(), strict=False)
        block.attn = other


def layers_dropped(model: Any) -> None:
    for block in model.transformer.h:
        block.__class__ = LayerDrop


def stack_dropped(model: Any) -> None:
    class Dropping(nn.ModuleList):
        def __iter__(self) -> Any:
            return (block for block in super().__iter__() if not self.training or random.random() > 0.1)

    model.transformer.h = Dropping(model.transformer.h)


def forward_patched(model: Any) -> None:
    usual = model.transformer.h[0].attn.forward
    model.transformer.h[0].attn.forward = lambda *inputs, **kwargs: usual(*inputs, **kwargs)


def hooked(model: Any) -> None:
    model.transformer.h[0].attn.register_forward_hook(lambda module, inputs, output: None)


def projection_smeared(model: Any) -> None:
    model.lm_head = Smeared(32, VOCABULARY, bias=False)


def normed(model: Any) -> None:
    class Double(nn.Dropout):
        pass

    model.transformer.h[1].attn.resid_dropout = Double(0.0)


def capped(model: Any) -> None:
    model.__class__ = Scaled


def activations_recomputed(model: Any) -> None:
    model.train().gradient_checkpointing_enable()
