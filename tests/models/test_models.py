"""Each architecture has the sizes and parts of its source."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.models import gpt2
from pipeline.models.gpt2 import Gpt2
from pipeline.models.gpt2_bare import Gpt2Bare
from pipeline.models.gpt2_looped import Gpt2Looped
from pipeline.models.pythia import PRESETS, Pythia
from pipeline.utils.errors import ParameterError
from tests.tiny import RECIPE, run_here, write_recipe

SMALL = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 12}


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_paper_s_model_has_its_size() -> None:
    # Wang et al. 2024: 8 layers of GPT-2 small, 56.7 M parameters; the rest are 2,216 tokens and 1,024 positions.
    model = Gpt2(n_layer=8).build(2216)
    assert parameters(model.transformer.h) == 8 * 7_087_872
    assert parameters(model) == 8 * 7_087_872 + (2216 + 1024) * 768 + 2 * 768
    assert parameters(Gpt2().build(50257)) == 124_439_808


@pytest.mark.parametrize(("kind", "presets"), [(Gpt2, gpt2.PRESETS), (Pythia, PRESETS)])
def test_every_preset_that_a_recipe_may_name_has_sizes(kind: type, presets: dict[str, object]) -> None:
    assert get_args(get_type_hints(kind)["preset"]) == tuple(presets)


@pytest.mark.parametrize(("preset", "count"), [("pythia-14m", 14_067_712), ("pythia-70m", 70_426_624)])
def test_pythia_has_the_published_sizes(preset: str, count: int) -> None:
    assert parameters(Pythia(preset=preset).build(50304)) == count
    layers, width, heads = PRESETS[preset]
    small = Pythia(preset=preset, n_layer=1).build(8)
    assert (small.config.num_hidden_layers, small.config.hidden_size) == (1, width)
    assert small.config.num_attention_heads == heads and layers > 1


def test_a_looped_model_is_a_deep_one_with_shared_blocks() -> None:
    torch.manual_seed(0)
    looped = Gpt2Looped(**SMALL, n_loops=3).build(24).eval()
    deep = Gpt2(**{**SMALL, "n_layer": 6}).build(24).eval()
    weights = looped.state_dict()
    blocks = {
        f"transformer.h.{i}.{name}": weights[f"transformer.h.{i % 2}.{name}"]
        for i in range(6)
        for name in deep.transformer.h[0].state_dict()
    }
    deep.load_state_dict({**{key: weights[key] for key in weights if ".h." not in key}, **blocks})
    tokens = torch.randint(0, 24, (4, 9))
    assert looped(tokens).logits.equal(deep(tokens).logits)
    assert len(looped(tokens, output_hidden_states=True).hidden_states) == 7
    assert parameters(looped) == parameters(Gpt2(**SMALL).build(24))


@pytest.mark.parametrize(("residual_init", "blocks"), [(None, 2), ("stored", 2), ("run", 6)])
def test_a_looped_model_starts_as_the_paper_s_or_as_one_as_deep_as_it_runs(
    residual_init: str | None, blocks: int
) -> None:
    torch.manual_seed(0)
    sizes = {**SMALL, "n_embd": 256, "n_head": 4}
    chosen = {} if residual_init is None else {"residual_init": residual_init}
    weights = Gpt2Looped(**sizes, n_loops=3, **chosen).build(24).state_dict()
    for block in ("transformer.h.0", "transformer.h.1"):
        for name in ("attn.c_proj", "mlp.c_proj"):
            std = weights[f"{block}.{name}.weight"].std().item()
            assert std == pytest.approx(0.02 / (2 * blocks) ** 0.5, rel=0.02)
        for name in ("attn.c_attn", "mlp.c_fc"):
            assert weights[f"{block}.{name}.weight"].std().item() == pytest.approx(0.02, rel=0.02)


def test_between_loops_the_tokens_that_a_state_points_to_are_added_to_it() -> None:
    torch.manual_seed(0)
    model = Gpt2Looped(**SMALL, n_loops=2, discrete=0.3, temperature=0.7, initializer_range=0.3).build(24).eval()
    plain = Gpt2Looped(**{**SMALL, "n_layer": 2}, n_loops=1).build(24).eval()
    plain.load_state_dict(model.state_dict())
    tokens = torch.randint(0, 24, (4, 9))
    with torch.no_grad():
        body = plain.transformer
        once = body(tokens, output_hidden_states=True).hidden_states  # the last one is normed
        seen: list[torch.Tensor] = []
        with_hook = body.ln_f.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        body(tokens)
        with_hook.remove()
        (state,) = seen
        points = ((once[-1] @ body.wte.weight.T) / 0.7).softmax(-1) @ body.wte.weight
        state = state + 0.3 * points / points.pow(2).mean(-1, keepdim=True).add(torch.finfo(points.dtype).eps).sqrt()
        for block in body.h:
            found = block(state)
            state = found[0] if isinstance(found, tuple) else found
        expected = body.ln_f(state) @ body.wte.weight.T
        assert torch.allclose(model(tokens).logits, expected, atol=1e-4)
    assert Gpt2Looped(**SMALL, discrete=0.3).short_forward(model) is None
    assert Gpt2Looped(**SMALL).short_forward(model) == "gpt2"


def test_without_positions_a_looped_model_reads_an_entity_alike_wherever_it_stands(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Gpt2Looped(**SMALL, positions=False).build(24).eval()
    tokens = torch.randint(0, 24, (4, 1))
    # A row of one token alone: every position attends to the same states, and has the same.
    logits = model(tokens.expand(-1, 9)).logits
    assert torch.allclose(logits, logits[:, :1].expand_as(logits), atol=1e-5)
    assert not torch.allclose(Gpt2Looped(**SMALL).build(24).eval()(tokens.expand(-1, 9)).logits[:, 0], logits[:, 1])
    text = RECIPE.replace("name: gpt2,", "name: gpt2_looped, positions: false, discrete: 0.5,").replace(
        "circuits", "# circuits"
    )
    path = write_recipe(tmp_path, text)
    assert run_here(path, "--max_steps", "3", "--weight_decay", "0.5", "--output_dir", str(tmp_path / "run")) == 0
    weights = load_file(tmp_path / "run" / "steps" / "step3" / "model.safetensors")
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "steps" / "step3", trust_remote_code=True).eval()
    assert (kept.config.discrete, kept.config.discrete_temperature) == (0.5, 1)
    with torch.no_grad():
        between = kept(tokens.expand(-1, 4) % 11).logits
        kept.config.discrete = 0.0
        assert not torch.allclose(between, kept(tokens.expand(-1, 4) % 11).logits, atol=1e-3)
    assert not weights["transformer.wpe.weight"].any() and weights["transformer.wte.weight"].any()


def test_the_bare_model_has_no_norms_and_trains_no_attention_bias() -> None:
    torch.manual_seed(0)
    model = Gpt2Bare().build(114)
    assert not any(isinstance(module, torch.nn.LayerNorm) for module in model.modules())
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"transformer.h.0.attn.c_attn.bias", "transformer.h.0.attn.c_proj.bias"}
    # Nanda et al.: N(0, 1/d) everywhere, N(0, 1/vocabulary) for the output.
    assert model.transformer.wte.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert model.transformer.h[0].mlp.c_proj.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert model.lm_head.weight.std().item() == pytest.approx(114**-0.5, rel=0.05)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"n_head: 5 does not divide n_embd, 32"):
        Gpt2(n_embd=32, n_head=5)
    with pytest.raises(ParameterError, match=r"dropout: 1.0 is not >= 0 and < 1"):
        Pythia(dropout=1.0)
