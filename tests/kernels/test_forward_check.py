"""The short forward trains a model only where it computes what transformers does, with every gradient."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)  # fmt: skip
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from pipeline.kernels.forward import Guarded, fast_logits, install, short_logits, stock_logits
from pipeline.kernels.forward_check import why_not_recorded
from pipeline.models.base import Architecture
from pipeline.models.gpt2 import Gpt2
from pipeline.models.gpt2_bare import Gpt2Bare
from pipeline.models.gpt2_looped import Gpt2Looped
from pipeline.models.pythia import Pythia
from tests import variants
from tests.variants import GPT2, NO_TOKENS, OFF, POSITIONS, VOCABULARY, model_of, results, rows


@pytest.mark.parametrize("architecture", [Gpt2, Gpt2Bare, Gpt2Looped, Pythia])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_declared_architectures_take_the_short_forward(architecture: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    made = architecture(n_layer=2, n_embd=32, n_head=4, n_positions=POSITIONS)
    model = made.build(VOCABULARY).to(dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    streams = torch.get_rng_state(), random.getstate()
    assert fast_logits(model, made.short_forward(model), rows())[1] is None
    assert torch.get_rng_state().equal(streams[0]) and random.getstate() == streams[1]
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_what_a_class_declares_does_not_hold_for_its_subclasses() -> None:
    class Mine(Gpt2):
        pass

    mine: Architecture = Mine(n_layer=1, n_embd=8, n_head=2)
    assert mine.short_forward(mine.build(VOCABULARY)) is None and mine.known_edges() is None
    _, why = fast_logits(mine.build(VOCABULARY), None, rows())
    assert why == "GPT2LMHeadModel is not declared to be of the family gpt2 or gpt_neox"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (variants.attention_shifted, "transformer.h.0.attn is a ShiftedAttention, not GPT2Attention"),
        (variants.layers_dropped, "transformer.h.0 is a LayerDrop, not GPT2Block"),
        (variants.stack_dropped, "transformer.h is a Dropping"),
        (variants.forward_patched, "the forward of transformer.h.0.attn is replaced"),
        (variants.hooked, "transformer.h.0.attn has a hook"),
        (variants.projection_smeared, "lm_head is a Smeared, which may mix positions"),
        (variants.normed, "transformer.h.1.attn.resid_dropout is a Double, not Dropout"),
        (variants.capped, "Scaled has a forward of its own"),
        (variants.activations_recomputed, "transformer.wte has a hook"),
    ],
)
def test_variants_are_trained_by_their_own_forward(change: Callable[[Any], None], reason: str) -> None:
    model = model_of("gpt2", **dict.fromkeys(OFF["gpt2"], 0.0))
    change(model)
    logits, why = fast_logits(model, "gpt2", rows())
    assert why is not None and why.endswith(reason), why
    torch.manual_seed(1)
    random.seed(1)
    theirs, their_gradients = results(model, stock_logits)
    torch.manual_seed(1)
    random.seed(1)
    ours, gradients = results(model, logits)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert set(gradients) == set(their_gradients)
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6)


def patched_class(monkeypatch: pytest.MonkeyPatch) -> str:
    """Attention of the whole class, patched with what keeps its module's name."""
    usual = GPT2Attention.forward
    import functools

    @functools.wraps(usual)
    def forward(self: Any, hidden_states: torch.Tensor, *inputs: Any, **kwargs: Any) -> Any:
        return usual(self, hidden_states * (1 + self.gate), *inputs, **kwargs)

    monkeypatch.setattr(GPT2Attention, "gate", 0.5, raising=False)
    monkeypatch.setattr(GPT2Attention, "forward", forward)
    return "its logits differ by"


def gated_attention(monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel with a parameter that is zero at first."""
    from transformers.models.gpt2 import modeling_gpt2

    usual = modeling_gpt2.ALL_ATTENTION_FUNCTIONS["sdpa"]

    def gated(module: Any, query: Any, key: Any, value: Any, *inputs: Any, **kwargs: Any) -> Any:
        gate = module.c_attn.bias[:8]
        return usual(module, query, key, value * (1 + gate), *inputs, **kwargs)

    monkeypatch.setitem(modeling_gpt2.ALL_ATTENTION_FUNCTIONS, "sdpa", gated)
    return "differ"


def drawing_attention(monkeypatch: pytest.MonkeyPatch) -> str:
    from transformers.models.gpt2 import modeling_gpt2

    usual = modeling_gpt2.ALL_ATTENTION_FUNCTIONS["sdpa"]

    def noisy(*inputs: Any, **kwargs: Any) -> Any:
        torch.rand(())
        return usual(*inputs, **kwargs)

    monkeypatch.setitem(modeling_gpt2.ALL_ATTENTION_FUNCTIONS, "sdpa", noisy)
    return "it draws random numbers beside its dropout"


@pytest.mark.parametrize("change", [patched_class, gated_attention, drawing_attention])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_what_types_do_not_tell_is_measured(
    change: Callable[..., str], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("gpt2", initializer_range=0.1).to(dtype)
    assert fast_logits(copy.deepcopy(model), "gpt2", rows())[1] is None
    reason = change(monkeypatch)
    _, why = fast_logits(model, "gpt2", rows())
    assert why is not None and reason in why


def test_a_zero_output_projection_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gpt2", tie_word_embeddings=False)
    nn.init.zeros_(model.lm_head.weight)
    assert fast_logits(copy.deepcopy(model), "gpt2", rows())[1] is None
    patched_class(monkeypatch)
    assert fast_logits(model, "gpt2", rows())[1] is not None


def test_hooks_and_forwards_that_come_later_are_heeded() -> None:
    model: Any = model_of("gpt2", **dict.fromkeys(OFF["gpt2"], 0.0))
    logits, _ = fast_logits(model, "gpt2", rows())
    assert isinstance(logits, Guarded)
    batch = rows().__getitems__(torch.arange(8))
    usual = logits(model, batch)
    assert why_not_recorded(model, True) is None
    seen: list[torch.Tensor] = []
    handle = model.transformer.h[1].attn.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    torch.testing.assert_close(logits(model, batch), usual)
    assert seen and seen[0].shape == (8, 6, 32)
    assert why_not_recorded(model, True) == "hooks on the model are Python, which a graph does not run again"
    handle.remove()
    model.transformer.h[0].mlp.forward = lambda hidden: torch.zeros_like(hidden)
    assert not torch.allclose(logits(model, batch), usual)
    torch.testing.assert_close(logits(model, batch), stock_logits(model, batch))


def test_a_graph_takes_no_forward_that_may_decide_anew() -> None:
    class Mine(GPT2LMHeadModel):
        pass

    plain, mine = model_of("gpt2"), Mine(GPT2Config(**GPT2))
    assert why_not_recorded(plain, False) is None
    assert why_not_recorded(mine, True) is None
    assert (
        why_not_recorded(mine, False) == "the model's own forward may decide anew at each step, which a graph does not"
    )


def test_a_deep_copy_computes_with_its_own_weights() -> None:
    model = model_of("gpt2", **dict.fromkeys(OFF["gpt2"], 0.0))
    install(model)
    batch = rows().__getitems__(torch.arange(8))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    for logits in (stock_logits, short_logits):
        assert not logits(twin, batch).any() and logits(model, batch).any()


def test_another_family_keeps_its_own_forward_and_narrows_what_can_be_narrowed() -> None:
    config = LlamaConfig(**NO_TOKENS, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    batch = rows().__getitems__(torch.arange(8))

    class Twice(LlamaForCausalLM):
        """Its output projection runs twice."""

        def forward(self, *inputs: Any, **kwargs: Any) -> Any:
            found = super().forward(*inputs, **kwargs)
            self.lm_head(torch.zeros(1, 2, 32))
            return found

    class Functional(LlamaForCausalLM):
        """Its output projection is not called as a module."""

        def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
            found = super().forward(input_ids=input_ids, **kwargs)
            hidden = self.model(input_ids=input_ids).last_hidden_state
            found.logits = hidden @ self.lm_head.weight.T
            return found

    for kind in (LlamaForCausalLM, Twice, Functional):
        torch.manual_seed(0)
        model = kind(config).eval()
        theirs = stock_logits(model, batch)
        logits, why = fast_logits(model, None, rows())
        assert why is not None and "is not declared" in why
        torch.testing.assert_close(logits(model, batch), theirs, rtol=0, atol=3e-6)
        assert (logits is stock_logits) == (kind is not LlamaForCausalLM)
