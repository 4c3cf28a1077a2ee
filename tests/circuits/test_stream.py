"""Models with GPT-2's module names that compute something else are refused in a line, before a table is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Block

from pipeline.circuits._batch import on_device
from pipeline.circuits._stream import check_edges, check_output
from pipeline.circuits.hooks import Hooks
from pipeline.config.registry import load
from tests.circuits.small import KINDS, random_model, random_pairs
from tests.models.test_pretrained_errors import on_bloom
from tests.tiny import run_here, write_recipe


def before(hidden: torch.Tensor) -> torch.Tensor:
    """The state one position earlier."""
    return nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]


class Shifted(GPT2Block):
    """A block that adds a share of the position before."""

    def forward(self, hidden_states: torch.Tensor, *inputs: Any, **kwargs: Any) -> Any:
        return super().forward(hidden_states, *inputs, **kwargs) + 0.5 * before(hidden_states)


class SmearedAttention(GPT2Attention):
    """Attention that reads a share of the position before."""

    def forward(self, hidden_states: torch.Tensor, *inputs: Any, **kwargs: Any) -> Any:
        return super().forward(hidden_states + 0.5 * before(hidden_states), *inputs, **kwargs)


class Doubled(GPT2MLP):
    def forward(self, hidden_states: Any) -> torch.Tensor:
        return super().forward(2 * hidden_states)


class Halved(GPT2Block):
    """A block whose MLP reads half of the stream."""

    def forward(self, hidden_states: torch.Tensor, *inputs: Any, **kwargs: Any) -> Any:
        attended = hidden_states + self.attn(self.ln_1(hidden_states), *inputs, **kwargs)[0]
        return attended + self.mlp(self.ln_2(attended - hidden_states / 2))


class Capped(GPT2LMHeadModel):
    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        found = super().forward(*inputs, **kwargs)
        found.logits = torch.tanh(found.logits)
        return found


def become(kind: type[nn.Module], *names: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name in names:
            model.get_submodule(name).__class__ = kind

    return change


BLOCKS = ("transformer.h.0", "transformer.h.1")
VARIANTS = {
    "shifted": (become(Shifted, *BLOCKS), "the stream before block 1 is"),
    "smeared": (become(SmearedAttention, *(f"{name}.attn" for name in BLOCKS)), "queries, keys and values of block 0"),
    "halved": (become(Halved, *BLOCKS), "what the MLP of block 0 reads"),
    "capped": (become(Capped, ""), "logits"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_known_models_add_up(kind: str) -> None:
    hooks, pairs = Hooks(random_model(kind)), random_pairs()
    for check in (check_edges, check_output):
        check(hooks, on_device(hooks, pairs).clean)
    check_output(Hooks(random_model(kind).bfloat16()), on_device(hooks, pairs).clean)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("analysis", ["attribution", "faithfulness", "patching"])
def test_edges_of_what_does_not_add_up_are_refused(analysis: str, variant: str) -> None:
    model, (change, what) = random_model("gpt2"), VARIANTS[variant]
    change(model)
    with pytest.raises(TypeError, match=rf"has the modules of GPT-2 and computes something else: {what}.*%"):
        load("circuits", analysis, "circuits")().run(model, random_pairs())


@pytest.mark.parametrize("analysis", ["logit_lens", "causal_tracing"])
def test_a_lens_needs_the_model_s_own_logits(analysis: str) -> None:
    model = random_model("gpt2")
    become(Capped, "")(model)
    with pytest.raises(TypeError, match="computes something else: logits"):
        load("circuits", analysis, "circuits")().run(model, random_pairs())


@pytest.mark.parametrize(("variant", "position"), [("shifted", 3), ("smeared", 3)])
def test_tracing_needs_blocks_that_read_the_stream_alone(variant: str, position: int) -> None:
    model = random_model("gpt2")
    VARIANTS[variant][0](model)  # reads the token before, which a cache of keys and values lacks
    with pytest.raises(TypeError, match="the last state of a patched run"):
        load("circuits", "causal_tracing", "circuits")().run(model, random_pairs(position=position))


def test_an_architecture_that_declares_no_edges_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, on_bloom(tmp_path) + "\ncircuits: {attribution: {}}\n")
    assert run_here(path) == 2
    said = capsys.readouterr().err.strip()
    assert "circuits.attribution: looks at edges, and this model declares no residual_family; known: gpt2" in said
    assert not list((tmp_path / "run").glob("steps/*"))
