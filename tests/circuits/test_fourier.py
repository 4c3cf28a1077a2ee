"""Progress measures on tables whose Fourier transform is known, and on a run that groks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline import Run
from pipeline.circuits.__main__ import main as circuits
from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.fourier import Fourier, _along, _logit_shares, _neuron_shares, _waves, gini
from pipeline.corpora.group import Group
from pipeline.corpora.store import build
from pipeline.models.gpt2 import Gpt2
from tests.tiny import ROOT, run_here

N = 13


@pytest.fixture(scope="module", params=["+", "-"])
def pairs(request: pytest.FixtureRequest) -> Any:
    return Fourier().choose(CorpusPairs(build(Group(group=f"Z{N}", operation=request.param, template="a b = c"))))


def wave_logits(answer: torch.Tensor, frequencies: dict[int, float]) -> torch.Tensor:
    """Logits of Nanda et al.'s algorithm: sums of cos(w (c - true answer))."""
    angles = 2 * torch.pi / N * (torch.arange(N)[None] - answer[:, None]).double()
    return sum((size * (k * angles).cos() for k, size in frequencies.items()), torch.zeros(len(answer), N).double())


def test_all_pairs_stand_in_the_table(pairs: Any) -> None:
    assert len(pairs) == N * N and (pairs.notes["modulus"] == N).all()
    assert 0 < pairs.notes["trained"].sum() < N * N


def test_waves_of_the_answer_are_found_with_their_shares(pairs: Any) -> None:
    answer = torch.from_numpy(pairs.answers[:, 0]).long()
    logits = wave_logits(answer, {2: 3.0, 5: 1.0})
    shares = _logit_shares(logits, pairs)
    expected = np.zeros(N // 2)
    expected[[1, 4]] = 9 / 10, 1 / 10
    np.testing.assert_allclose(shares, expected, atol=1e-9)
    key = _along(logits, _waves(answer, N, [2]))
    torch.testing.assert_close(key, wave_logits(answer, {2: 3.0}))
    torch.testing.assert_close(logits - key, wave_logits(answer, {5: 1.0}))


def test_neurons_belong_to_the_frequency_that_explains_them(pairs: Any) -> None:
    a, b = (torch.from_numpy(pairs.clean[:, i]).double() * 2 * torch.pi / N for i in (0, 1))
    neurons = torch.stack([(3 * a).cos() * (3 * b).sin(), 2 * (3 * a).sin(), (5 * a).cos() + (5 * b).cos()], 1)
    shares, explained = _neuron_shares(neurons, pairs)
    variances = neurons.var(0, correction=0)
    assert shares[2] == pytest.approx((variances[:2].sum() / variances.sum()).item())
    assert shares[4] == pytest.approx((variances[2] / variances.sum()).item()) and shares.sum() == pytest.approx(1)
    assert explained == pytest.approx(1)
    both = _neuron_shares((neurons[:, 1] + neurons[:, 2])[:, None], pairs)  # variances 2 and 1 in one neuron
    assert both[0][2] == pytest.approx(1) and both[1] == pytest.approx(2 / 3)


@pytest.mark.parametrize("n", [12, 13])
def test_waves_are_orthonormal_and_complete(n: int) -> None:
    waves = _waves(torch.arange(n), n, range(1, n // 2 + 1))
    used = waves[:, waves.norm(dim=0) > 0]  # of an even n the highest frequency has no sine
    assert used.shape[1] == n - 1
    torch.testing.assert_close(used.T @ used, torch.eye(n - 1).double())


def test_the_gini_coefficient_is_the_mean_difference_over_twice_the_mean() -> None:
    values = np.array([1.0, 2.0, 2.0, 7.0])
    expected = np.abs(values[:, None] - values).mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(expected)
    assert gini(np.ones(5)) == pytest.approx(0) and gini(np.zeros(3)) == 0


def test_losses_are_those_of_the_parts(pairs: Any) -> None:
    torch.manual_seed(0)
    model = Gpt2(n_layer=1, n_embd=16, n_head=2, n_positions=4, initializer_range=0.3).build(16)
    table = Fourier().run(model, pairs, frequencies=[2, 5])
    found = {(row["measure"], row["frequency"]): row["value"] for row in table.to_pylist()}
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(pairs.clean).long()).logits[:, -1].double()
    answer, trained = torch.from_numpy(pairs.answers[:, 0]).long(), torch.from_numpy(pairs.notes["trained"]).bool()
    assert found["train loss", -1] == pytest.approx(F.cross_entropy(logits[trained], answer[trained]).item(), rel=1e-5)
    key = torch.zeros_like(logits)
    for k in (2, 5):
        for wave in (torch.cos, torch.sin):
            u = wave(2 * torch.pi * k / N * answer.double())
            key += torch.outer(u, u @ logits) / (u @ u)
    restricted = F.cross_entropy(logits.mean(0) + key, answer).item()
    excluded = F.cross_entropy((logits - key)[trained], answer[trained]).item()
    assert found["restricted loss", -1] == pytest.approx(restricted, rel=1e-5)
    assert found["excluded loss", -1] == pytest.approx(excluded, rel=1e-5)
    assert {k for name, k in found if name == "key"} == {2, 5}
    for name in ("embedding", "unembedding", "neurons"):
        assert sum(value for (measure, _), value in found.items() if measure == name) == pytest.approx(1)


@pytest.mark.parametrize("shared", [{}, {"frequencies": [2, 5]}], ids=["alone", "with frequencies"])
def test_the_model_passes_over_the_table_once(pairs: Any, shared: dict[str, Any]) -> None:
    model = Gpt2(n_layer=1, n_embd=16, n_head=2, n_positions=4, initializer_range=0.3).build(16)
    rows: list[int] = []
    model.transformer.wte.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    Fourier().run(model, pairs, **shared)
    assert sum(rows) == N * N


@pytest.mark.slow
def test_a_grokked_run_adds_by_rotation(tmp_path: Path) -> None:
    """The shipped quickstart: its own frequencies alone answer, without them nothing does, and this shows early."""
    folder = tmp_path / "run"
    assert run_here(ROOT / "recipes" / "quickstart.yaml", "--output_dir", str(folder)) == 0
    assert circuits([str(folder), "--analysis", "fourier"]) == 0
    run = Run(folder)
    grok_step = run.grok.gen_step
    assert grok_step is not None
    rows = run.table("fourier").to_dict("records")
    value = {(row["measure"], row["frequency"], row["step"]): row["value"] for row in rows}
    keys = sorted({row["frequency"] for row in rows if row["measure"] == "key"})
    last = run.steps[-1]
    assert 2 <= len(keys) <= 16 and sum(value["logits", k, last] for k in keys) > 0.7
    restricted, excluded = ({s: value[f"{kind} loss", -1, s] for s in run.steps} for kind in ("restricted", "excluded"))
    assert restricted[last] < 0.1 and excluded[last] > 1
    # The paper reads key frequencies off the embedding's peaks and the neurons; here the logits decide.
    by_embedding = sorted(range(1, 49), key=lambda k: -value["embedding", k, last])
    assert sorted(by_embedding[: len(keys)]) == keys
    assert sum(value["neurons", k, last] for k in keys) > 0.8
    assert value["neurons explained", -1, last] > 3 * value["neurons explained", -1, 0]
    # Long before it generalizes the key frequencies alone answer better, and what memory alone answers has grown worse.
    early = [step for step in run.steps if step < grok_step and value["held-out loss", -1, step] > 2]
    assert early[-1] < 0.8 * grok_step
    assert restricted[early[-1]] < 0.5 * restricted[0]
    assert excluded[early[-1]] > 1.5 * min(excluded[step] for step in early)
    assert value["gini embedding", -1, last] > 2 * value["gini embedding", -1, 0]
