"""Barriers of models whose landscape is known, and permutations that bring a copy back."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.circuits.__main__ import main as circuits
from pipeline.circuits._alignment import align, assignment, axes_of, reordered
from pipeline.circuits.barrier import Barrier, joined
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.tables import by_step
from pipeline.utils.errors import MismatchError, ParameterError, UnsupportedError
from tests.circuits.small import KINDS, random_model, random_pairs
from tests.tiny import SHORT, run_here, write_recipe


def shuffled(model: Any, seed: int = 0) -> Any:
    """A copy with channels, heads and neurons in another order, written out for each architecture."""
    rng = np.random.default_rng(seed)
    other, config = copy.deepcopy(model), model.config
    heads_of = config.num_attention_heads
    width = config.hidden_size // heads_of
    stream = torch.from_numpy(rng.permutation(config.hidden_size))
    gpt2 = hasattr(other.base_model, "h")
    base = other.base_model

    def norm(module: Any) -> None:
        if hasattr(module, "weight"):
            module.weight.data, module.bias.data = module.weight.data[stream], module.bias.data[stream]

    if gpt2:
        base.wte.weight.data, base.wpe.weight.data = base.wte.weight.data[:, stream], base.wpe.weight.data[:, stream]
    else:
        base.embed_in.weight.data = base.embed_in.weight.data[:, stream]
    output = other.get_output_embeddings()
    if output.weight is not other.get_input_embeddings().weight:
        output.weight.data = output.weight.data[:, stream]
    done: set[int] = set()
    for block in base.h if gpt2 else base.layers:
        if id(block) in done:
            continue
        done.add(id(block))
        heads = rng.permutation(heads_of)
        within = torch.from_numpy(np.concatenate([np.arange(h * width, (h + 1) * width) for h in heads]))
        if gpt2:
            norm(block.ln_1)
            norm(block.ln_2)
            three = torch.cat([within + i * config.hidden_size for i in range(3)])
            qkv, out, up, down = block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj
            neurons = torch.from_numpy(rng.permutation(up.weight.shape[1]))
            for module, left, right in (
                (qkv, stream, three), (out, within, stream), (up, stream, neurons), (down, neurons, stream)
            ):  # fmt: skip
                module.weight.data = module.weight.data[left][:, right]
                module.bias.data = module.bias.data[right]
        else:
            norm(block.input_layernorm)
            norm(block.post_attention_layernorm)
            three = torch.from_numpy(np.concatenate([np.arange(h * 3 * width, (h + 1) * 3 * width) for h in heads]))
            qkv, out = block.attention.query_key_value, block.attention.dense
            up, down = block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h
            neurons = torch.from_numpy(rng.permutation(up.weight.shape[0]))
            for module, left, right in (
                (qkv, three, stream), (out, stream, within), (up, neurons, stream), (down, stream, neurons)
            ):  # fmt: skip
                module.weight.data = module.weight.data[left][:, right]
                module.bias.data = module.bias.data[left]
    norm(base.ln_f if gpt2 else base.final_layer_norm)
    return other


def test_a_model_whose_order_is_not_known_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="whose order nothing is known of"):
        axes_of(Hooks(random_model("shifted")))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("shifted", "factorized")])
def test_a_permuted_copy_computes_the_same_and_is_brought_back(kind: str) -> None:
    model, pairs = random_model(kind), random_pairs(n=12)
    other = shuffled(model)
    tokens = torch.from_numpy(pairs.clean).long()
    logits = model(tokens).logits
    torch.testing.assert_close(other(tokens).logits, logits, atol=1e-4, rtol=1e-4)
    pairs = dataclasses.replace(pairs, answers=logits[:, -1:].argmax(-1).int().numpy())  # what both answer
    apart = Barrier(split="id").run(model, pairs, other=other)
    assert max(apart["loss above"].to_pylist()) > 0.1
    near = Barrier(split="id", align=True).run(model, pairs, other=other)
    assert max(near["loss above"].to_pylist()) < 1e-5
    assert max(near["distance"].to_pylist()) < 1e-5 and max(apart["distance"].to_pylist()) > 1
    axes = axes_of(Hooks(model))
    here, there = (dict(one.named_parameters()) for one in (model, other))
    back = reordered(there, axes, align(axes, here, there))
    assert all(torch.equal(back[name], here[name]) for name in here)


def test_a_noisy_permuted_copy_is_brought_back_too() -> None:
    model = random_model("neox-sequential")
    other = shuffled(model, seed=3)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.02 * torch.randn_like(weight)
    near = Barrier(split="id", align=True).run(model, random_pairs(), other=other)
    size = sum(weight.numel() for weight in model.parameters())
    assert near["distance"][0].as_py() == pytest.approx(0.02 * size**0.5, rel=0.05)


def test_the_best_assignment_is_that_of_all_permutations() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 6):
        for _ in range(10):
            values = rng.normal(size=(n, n)).round(1)
            found = assignment(values)
            best = max(sum(values[i, p[i]] for i in range(n)) for p in itertools.permutations(range(n)))
            assert sorted(found) == list(range(n))
            assert values[np.arange(n), found].sum() == pytest.approx(best)


def test_values_on_the_line_are_those_of_mixed_weights() -> None:
    model, other, pairs = random_model("gpt2"), random_model("gpt2", seed=1), random_pairs(n=8)
    table = Barrier(split="id", alphas=5, layers=True).run(model, pairs, other=other).to_pylist()
    tokens, answers = torch.from_numpy(pairs.clean).long(), torch.from_numpy(pairs.answers[:, 0]).long()
    moves = {
        "all": lambda name: True,
        "block 1": lambda name: ".h.1." in name,
        "outside": lambda name: ".h." not in name,
    }
    for part, chosen in moves.items():
        found = {row["alpha"]: row for row in table if row["part"] == part}
        losses = {}
        for alpha in (0, 0.25, 0.5, 0.75, 1):
            mixed = copy.deepcopy(model)
            for (name, weight), end in zip(mixed.named_parameters(), other.parameters()):
                if chosen(name):
                    weight.data = (1 - alpha) * weight.data + alpha * end.data
            logits = mixed(tokens).logits[:, -1]
            losses[alpha] = F.cross_entropy(logits, answers).item()
            assert found[alpha]["loss"] == pytest.approx(losses[alpha], rel=1e-4)
            assert found[alpha]["error"] == pytest.approx((logits.argmax(-1) != answers).float().mean().item())
        for alpha, loss in losses.items():
            above = loss - (1 - alpha) * losses[0] - alpha * losses[1]
            assert found[alpha]["loss above"] == pytest.approx(above, abs=1e-4)


def test_a_model_has_no_barrier_with_itself() -> None:
    model = random_model("gpt2")
    table = Barrier(split="id").run(model, random_pairs(), other=model)
    assert max(map(abs, table["loss above"].to_pylist())) < 1e-6 and set(table["distance"].to_pylist()) == {0.0}


def test_splits_of_different_lengths_stand_below_each_other() -> None:
    short, long = random_pairs(n=2, length=5), random_pairs(n=3, length=7, seed=1)
    both = joined({"id": short, "ood": long})
    assert both.metadata["split"] == ["id"] * 2 + ["ood"] * 3 and both.lengths.tolist() == [5, 5, 7, 7, 7]
    model, other = random_model("gpt2"), random_model("gpt2", seed=1)
    rows = Barrier(alphas=3).run(model, both, other=other).to_pylist()
    for split, pairs in {"id": short, "ood": long}.items():
        alone = Barrier(split=split, alphas=3).run(model, pairs, other=other).to_pylist()
        found = [row["loss"] for row in rows if row["split"] == split]
        np.testing.assert_allclose(found, [row["loss"] for row in alone], rtol=1e-5)


def test_models_of_another_shape_and_other_weights_are_refused() -> None:
    model, pairs = random_model("gpt2"), random_pairs()
    with pytest.raises(MismatchError, match=r"another shape: transformer\.h\.2\..* missing here"):
        Barrier().run(model, pairs, other=random_model("gpt2", n_layer=3))
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedError, match=r"has extra\.weight, whose order nothing is known of"):
        Barrier(align=True).run(model, pairs, other=model)


@pytest.mark.parametrize("other", ["", "never", "runs/a@", "@last", "same", "runs/a@soon", "-1"])
def test_what_names_no_step_is_refused(other: str) -> None:
    with pytest.raises(ParameterError, match=r"other: .* is not last, fit, grok or a number, nor RUN@"):
        Barrier(other=other)


def test_steps_of_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run and a fork of it that sees its rows in another order, as the command line and a recipe name them."""
    recipe, one, two = write_recipe(tmp_path, SHORT), tmp_path / "a", tmp_path / "b"
    short = ["--max_steps", "4", "--save_steps", "2", "--checkpoints.every", "[[2, null]]", "--eval_steps", "4"]
    assert run_here(recipe, *short, "--output_dir", str(one)) == 0
    barrier = f"{{barrier: {{other: '{one}@same', split: id}}}}"
    fork = ["--fork", f"{one}@2", "--data_seed", "7", "--circuits", barrier]
    assert run_here(recipe, *short, *fork, "--output_dir", str(two)) == 0
    heights = {step: max(table["distance"].to_pylist()) for step, table in by_step(two, "barrier").items()}
    assert list(heights) == [4] and heights[4] > 0
    written = {path: path.stat().st_mtime_ns for path in (two / "circuits" / "barrier").iterdir()}
    words = [str(two), "--analysis", "barrier", "--barrier.split", "id"]
    assert circuits([*words, "--barrier.other", f"{one}@same"]) == 0
    assert written == {path: path.stat().st_mtime_ns for path in (two / "circuits" / "barrier").iterdir()}
    assert circuits([*words, "--barrier.other", "4"]) == 0
    assert max(by_step(two, "barrier")[4]["distance"].to_pylist()) == 0
    for other, error in {
        f"{one}@3": "a has not kept 3; kept are",
        f"{tmp_path}@last": "is not the folder of a run",
        "grok": "has not generalized",
    }.items():
        capsys.readouterr()
        assert circuits([*words, "--barrier.other", other]) == 2
        said = capsys.readouterr().err
        assert error in said and said.count("\n") == 1
    assert circuits(["--model", str(one / "steps" / "step4"), str(one), *words[1:]]) == 2
    assert "compares the steps of a run, and this is one model" in capsys.readouterr().err
