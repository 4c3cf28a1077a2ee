"""Hooks see and change what the model computes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from pipeline.circuits.hooks import Hooks, evaluating
from tests.circuits.small import KINDS, random_model, random_pairs, tokens_of

TOKENS = tokens_of(random_pairs().clean)
ATTENTION = ("hook_pattern", "hook_attn_scores")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_reading_changes_nothing(kind: str, attention: str) -> None:
    model = random_model(kind)
    model.set_attn_implementation(attention)
    hooks = Hooks(model)
    plain = model(TOKENS).logits
    logits, found = hooks.read(TOKENS, [name for name in hooks.points if not name.endswith(ATTENTION)])
    assert logits.equal(plain)
    logits, found = hooks.read(TOKENS, hooks.points)
    assert found.keys() == hooks.points.keys()
    # The eager kernel computes attention in the same order as this does; the fused one does not.
    assert logits.equal(plain) if attention == "eager" else torch.allclose(logits, plain, atol=1e-5)
    assert model(TOKENS).logits.equal(plain) and model.config._attn_implementation == attention


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_what_their_names_say(kind: str) -> None:
    model = random_model(kind)
    model.set_attn_implementation("eager")
    hooks = Hooks(model)
    logits, found = hooks.read(TOKENS, hooks.points)
    outputs = model(TOKENS, output_hidden_states=True, output_attentions=True)
    for layer in range(hooks.n_layer):
        at = f"blocks.{layer}."
        assert found[f"{at}hook_resid_pre"].equal(outputs.hidden_states[layer])
        pre, post = found[f"{at}hook_resid_pre"], found[f"{at}hook_resid_post"]
        parts = found[f"{at}hook_attn_out"] + found[f"{at}hook_mlp_out"]
        torch.testing.assert_close(pre + parts, post, atol=1e-5, rtol=1e-5)
        result = found[f"{at}attn.hook_result"].sum(2) + hooks.part(layer, "proj").bias
        torch.testing.assert_close(result, found[f"{at}hook_attn_out"], atol=1e-5, rtol=1e-5)
        pattern, v = found[f"{at}attn.hook_pattern"], found[f"{at}attn.hook_v"]
        assert pattern.equal(outputs.attentions[layer])
        if kind == "shifted":  # heads see each value mixed with the one before it
            own, previous = hooks.part(layer, "attention").value_shift[..., None]
            v = own * v + previous * torch.cat([torch.zeros_like(v[:, :1]), v[:, :-1]], 1)
        z = torch.einsum("bhqk,bkhe->bqhe", pattern, v)
        torch.testing.assert_close(z, found[f"{at}attn.hook_z"], atol=1e-5, rtol=1e-5)
        assert found[f"{at}attn.hook_qkv"][:, :, 1].equal(found[f"{at}attn.hook_k"])
        projected = torch.einsum("btd,shed->btshe", found[f"{at}ln1.hook_normalized"], hooks.in_weight(layer))
        bias = hooks.in_bias(layer)
        torch.testing.assert_close(projected + bias, found[f"{at}attn.hook_qkv"], atol=1e-5, rtol=1e-5)
    assert model.get_output_embeddings()(found["ln_final.hook_normalized"]).equal(logits)


@pytest.mark.parametrize("kind", KINDS)
def test_every_point_can_be_replaced(kind: str) -> None:
    model = random_model(kind)
    model.set_attn_implementation("eager")
    hooks = Hooks(model)
    plain = model(TOKENS).logits
    for name in hooks.points:
        with hooks.at({name: torch.clone}):
            torch.testing.assert_close(model(TOKENS).logits, plain, atol=2e-5, rtol=1e-5)
        with hooks.at({name: lambda value: value.roll(1, 0)}):
            moved = model(TOKENS).logits
        assert not torch.allclose(moved, plain, atol=1e-3), name
    with hooks.at({"blocks.0.hook_resid_pre": lambda value: value.roll(1, 0)}):
        assert torch.allclose(model(TOKENS).logits, plain.roll(1, 0), atol=1e-5)
    assert model(TOKENS).logits.equal(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_finite_differences(kind: str) -> None:
    model = random_model(kind).double()
    hooks = Hooks(model)

    def metric(logits: Any) -> Any:
        return logits[:, -1, 3].sum()

    value, found, slopes = hooks.gradients(TOKENS, list(hooks.points), metric)
    assert value == pytest.approx(metric(model(TOKENS).logits).item(), abs=1e-9)
    step = 1e-7  # so small that no ReLU turns on or off on the way
    for name in hooks.points:
        torch.manual_seed(1)
        direction = torch.randn_like(found[name])
        ends = []
        for sign in (1, -1):
            with hooks.at({name: lambda value, sign=sign, by=direction: value + sign * step * by}):
                ends.append(metric(model(TOKENS).logits).item())
        expected = (slopes[name] * direction).sum().item()
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    assert all(weight.grad is None for weight in model.parameters())


def test_a_looped_model_has_points_for_every_pass() -> None:
    model = random_model("looped")  # two blocks, run twice
    hooks = Hooks(model)
    assert hooks.n_layer == 4 and "blocks.3.attn.hook_q" in hooks.points
    _, found = hooks.read(TOKENS, [f"blocks.{i}.hook_resid_post" for i in range(4)])
    values = list(found.values())
    assert all(not a.equal(b) for i, a in enumerate(values) for b in values[:i])
    with hooks.at({"blocks.2.hook_mlp_out": torch.zeros_like}):  # the first block's second pass
        _, after = hooks.read(TOKENS, [f"blocks.{i}.hook_resid_post" for i in range(4)])
    assert [after[name].equal(found[name]) for name in found] == [True, True, False, False]


def test_a_hook_that_fails_leaves_the_model_as_it_was() -> None:
    model = random_model("gpt2")
    hooks = Hooks(model)
    plain = model(TOKENS).logits
    with pytest.raises(ZeroDivisionError), hooks.at({"blocks.1.attn.hook_pattern": lambda value: value / (1 // 0)}):
        model(TOKENS)
    assert model(TOKENS).logits.equal(plain) and model.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_is_unknown_is_named() -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=8, hidden_size=8, n_layer=1, n_head=2))
    lacks = r"BloomForCausalLM is no model .* GPT-2 has wte; GPT-NeoX has embed_in, .*; Llama has embed_tokens"
    with pytest.raises(TypeError, match=lacks):
        Hooks(bloom)
    gpt2 = random_model("gpt2")
    del gpt2.transformer.h[0].mlp.c_fc
    with pytest.raises(TypeError, match=r"GPT-2 has h\.0\.mlp\.c_fc"):
        Hooks(gpt2)
    with (
        pytest.raises(KeyError, match=r"did you mean blocks\.0\.attn\.hook_q"),
        Hooks(random_model("gpt2")).at({"blocks.0.attn.hook_qq": torch.clone}),
    ):
        pass


def test_evaluating_gives_back_each_module_s_mode() -> None:
    model = random_model("gpt2").train()
    model.transformer.h[0].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model.training and not model.transformer.h[0].training and model.transformer.h[1].attn.training


@pytest.mark.parametrize("kind", KINDS)
def test_evaluating_gives_back_each_module_s_class(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within it layers multiply as is fastest on a processor where that is not by the classes they have."""
    monkeypatch.setattr("pipeline.kernels.onednn.is_faster", lambda: True)
    monkeypatch.setattr("pipeline.kernels.onednn.SMALL", 1)
    model, tokens = random_model(kind), tokens_of(random_pairs().clean)
    before, expected = [type(module) for module in model.modules()], model(tokens).logits
    with evaluating(model):
        assert [type(module) for module in model.modules()] != before
        torch.testing.assert_close(model(tokens).logits, expected, atol=1e-5, rtol=1e-5)
    assert [type(module) for module in model.modules()] == before
    assert torch.equal(model(tokens).logits, expected)
