"""What a callback remembers is part of a checkpoint: a resumed run ends as one that was not interrupted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from pipeline.callbacks._states import TENSORS, VALUES
from pipeline.callbacks.base import Callback
from pipeline.config.recipe import read_recipe
from pipeline.training.session import prepare, train
from tests.test_run import FINAL, same_weights
from tests.tiny import run_here, write_recipe


@dataclass
class Pulling(Callback):
    """Pulls one weight towards its own average, the more, the later."""

    intervenes: ClassVar[bool] = True
    _count: int = field(default=0, init=False)
    _mean: Any = field(default=None, init=False)
    _seen: list[int] = field(default_factory=list, init=False)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        weight = model.transformer.wte.weight.data
        self._count += 1
        self._seen.append(state.global_step)
        self._mean = weight.clone() if self._mean is None else self._mean.lerp(weight, 0.1)
        weight.lerp_(self._mean, min(0.01 * self._count, 0.5))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count, "mean": self._mean, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count, self._mean, self._seen = state["count"], state["mean"], list(state["seen"])


def trained(recipe: Path, run: Path, *words: str) -> Pulling:
    trainer = prepare(read_recipe(recipe, ["--output_dir", str(run), *words]))
    Pulling().attach(trainer)
    train(trainer)
    (found,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, Pulling))
    return found


def test_a_resumed_run_goes_on_with_it(tmp_path: Path) -> None:
    recipe, straight, parts = write_recipe(tmp_path), tmp_path / "straight", tmp_path / "parts"
    whole = trained(recipe, straight)
    half = trained(recipe, parts, "--max_steps", "12")
    rest = trained(recipe, parts)
    assert half._seen == list(range(1, 13)) and rest._seen == whole._seen == list(range(1, 25))
    assert torch.equal(rest._mean, whole._mean)
    assert same_weights(parts / FINAL, straight / FINAL)


def test_a_run_without_such_a_callback_has_no_file_of_it(tmp_path: Path) -> None:
    assert run_here(write_recipe(tmp_path), "--max_steps", "6") == 0
    names = {path.name for path in (tmp_path / "run").glob("checkpoint-*/*")}
    assert names and not names & {TENSORS, VALUES}
