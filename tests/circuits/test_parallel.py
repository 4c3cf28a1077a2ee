"""Analyses whose parts several threads compute, against one thread alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline.circuits import _parallel as _threads
from pipeline.circuits._parallel import over_threads, workers_of
from pipeline.circuits.causal_tracing import CausalTracing
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.logit_lens import LogitLens
from tests.circuits.small import KINDS, random_model, random_pairs


@pytest.fixture(autouse=True)
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@pytest.mark.parametrize("analysis", [CausalTracing(), LogitLens()], ids=["causal_tracing", "logit_lens"])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_find_what_one_finds(
    kind: str, analysis: CausalTracing | LogitLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs = random_model(kind), random_pairs(n=50)
    alone = analysis.run(model, pairs).to_pydict()
    monkeypatch.setattr(_threads, "LEAST", 8)
    assert workers_of(Hooks(model), len(pairs)) == 3
    together = analysis.run(model, pairs).to_pydict()
    assert together == analysis.run(model, pairs).to_pydict()  # whichever thread is first
    assert together.keys() == alone.keys()
    for name, column in alone.items():
        assert together[name] == (pytest.approx(column, abs=1e-6) if isinstance(column[0], float) else column)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_each_thread_has_hooks_of_its_own_on_the_same_weights() -> None:
    hooks, rows = Hooks(random_model("gpt2")), torch.randint(24, (40, 5))

    def scaled(own: Hooks, factor: int) -> torch.Tensor:
        assert not torch.is_grad_enabled() and torch.get_num_threads() == 1
        assert own.head.weight is hooks.head.weight is own.model.base_model.wte.weight
        with own.at({"blocks.1.hook_mlp_out": lambda value: value * factor}):
            return own.run(rows)

    found = over_threads(hooks, scaled, range(12), workers=3)
    with torch.no_grad():
        for factor, logits in enumerate(found):
            with hooks.at({"blocks.1.hook_mlp_out": lambda value, factor=factor: value * factor}):
                torch.testing.assert_close(logits, hooks.run(rows))


def test_an_error_in_a_thread_is_raised_and_threads_stay_as_many(threads: int) -> None:
    def work(own: Hooks, part: int) -> int:
        if part == 1:
            raise ValueError("part 1")
        return part

    with pytest.raises(ValueError, match="part 1"):
        over_threads(Hooks(random_model("gpt2")), work, range(6), workers=3)
    assert torch.get_num_threads() == threads


def test_few_rows_are_left_to_one_thread(threads: int) -> None:
    hooks = Hooks(random_model("gpt2"))
    assert [workers_of(hooks, rows) for rows in (1, 64, 128, 10_000)] == [1, 1, 2, threads]
