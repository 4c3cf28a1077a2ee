"""What a step does to the loss of each row: groups of which one is learned where the other is unlearned.

Rosenfeld & Risteski 2023, "Outliers with Opposing Signals" (arXiv 2311.04163), section 2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.callbacks.base import Callback, Trainer
from pipeline.config.fields import param
from pipeline.utils.errors import ParameterError
from pipeline.utils.seeds import sample

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.rows import Rows

FILE = "opposing_signals.json"


@dataclass
class OpposingSignals(Callback):
    """Measures the loss of training rows before and after a step, and logs how it changes.

    `opposing_top_share` is the share of the sum of all changes' sizes that the 1 % of rows with the largest have,
    `opposing_kurtosis` that of the changes, and `opposing_flips` how many of the rows with the largest changes at the
    watched step before now change the other way. Half of `top` rows with the largest increases and as many with the
    largest decreases oppose each other by the smaller of their mean changes, `opposing_strength`. Those of the watched
    step at which it was largest so far are the groups `up` and `down`: `opposing_<group>_change` and `..._loss` are the
    means of each.

    At evaluations `opposing_cosine` is that of the two groups' mean gradients, and `opposing_sharpness` the largest
    eigenvalue of the Hessian of the loss of the rows. `opposing_signals.json` in the run folder has the rows by their
    number in `train`, with their changes, and the norms of the groups' gradients by weight. It needs whole weights, and
    training rows that are those of the corpus.
    """

    every: int = param(10, "steps from one watched step to the next", ge=1)
    rows: int = param(2048, "most training rows", ge=4)
    top: int = param(20, "rows with the largest changes, and twice the size of a group", ge=2)
    below: float | None = param(
        None, "mean loss of the rows from which on groups are looked for; null: from the start", gt=0
    )
    iterations: int = param(10, "of the method that finds the eigenvalue; 0: no sharpness", ge=0)
    chunk: int = param(256, "rows at once", ge=1)
    _before: Any = field(init=False, default=None, repr=False)
    _groups: dict[str, list[int]] = field(init=False, default_factory=dict, repr=False)
    _strength: float = field(init=False, default=0.0, repr=False)
    _seen: list[dict[str, Any]] = field(init=False, default_factory=list, repr=False)
    _slopes: list[dict[str, Any]] = field(init=False, default_factory=list, repr=False)

    def attach(self, trainer: Trainer) -> None:
        from pipeline.callbacks._sharded import check_whole
        from pipeline.data.rows import Rows

        check_whole(trainer, "opposing_signals")
        if type(trainer.train_rows) is not Rows:
            raise ParameterError("callbacks.opposing_signals", "looks at rows of the corpus, and others are trained")
        super().attach(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"groups": self._groups, "strength": self._strength, "seen": self._seen, "slopes": self._slopes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._groups, self._strength = state["groups"], state["strength"]
        self._seen, self._slopes = state["seen"], state["slopes"]

    def _watched(self) -> tuple[Rows, list[int]]:
        """The rows, and their numbers in `train`."""
        every = self.trainer.train_rows
        drawn = sample(len(every), self.rows, "train", "opposing")
        numbers = list(range(len(every))) if drawn is None else drawn.tolist()
        return every.sample(self.rows, "train", "opposing"), numbers

    def _losses(self) -> Tensor:
        """The mean loss of the targets of each row, float64 on the CPU."""
        import torch

        from pipeline.callbacks._probe import evaluated
        from pipeline.data.labels import IGNORED
        from pipeline.kernels.forward import stock_logits

        rows, _ = self._watched()
        found = []
        with evaluated(self.trainer) as model, torch.no_grad():
            for part in torch.arange(len(rows), device=rows.tokens_NT.device).split(self.chunk):
                batch = rows.__getitems__(part)
                losses_BA = self.trainer.recipe.objective.token_losses(stock_logits(model, batch), batch["labels"])
                found.append((losses_BA.sum(1) / (batch["labels"] != IGNORED).sum(1)).cpu().double())
        return torch.cat(found)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self._before = self._losses()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._before is None:
            return
        loss_N, change_N = self._before, self._losses() - self._before
        self._before = None
        order = change_N.argsort(descending=True)
        half = max(min(self.top, len(order)) // 2, 1)
        strength = min(float(change_N[order[:half]].mean()), -float(change_N[order[-half:]].mean()))
        if strength > self._strength and (self.below is None or float(loss_N.mean()) <= self.below):
            self._groups = {"up": order[:half].tolist(), "down": order[-half:].tolist()}
            self._strength = strength
        largest = change_N.abs().argsort(descending=True)
        size_N = change_N.abs()[largest]
        centred_N = change_N - change_N.mean()
        logs = {
            "opposing_strength": strength,
            "opposing_top_share": float(size_N[: max(len(size_N) // 100, 1)].sum() / size_N.sum().clamp(min=1e-30)),
            "opposing_kurtosis": float(centred_N.pow(4).mean() / centred_N.square().mean().square().clamp(min=1e-30)),
        }
        if self._seen:
            last = dict(zip(self._seen[-1]["places"], self._seen[-1]["changes"]))
            logs["opposing_flips"] = sum(float(change_N[i]) * was < 0 for i, was in last.items()) / len(last)
        for name, group in self._groups.items():
            logs[f"opposing_{name}_change"] = float(change_N[group].mean())
            logs[f"opposing_{name}_loss"] = float(loss_N[group].mean())
        self.trainer.log(logs)
        places = largest[: 2 * half].tolist()
        _, numbers = self._watched()
        self._seen.append(
            {
                "step": state.global_step,
                "loss": float(loss_N.mean()),
                "strength": strength,
                "places": places,
                "rows": [numbers[place] for place in places],
                "changes": change_N[places].tolist(),
            }
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import torch

        from pipeline.callbacks._probe import evaluated, gradients_at, weights_of
        from pipeline.callbacks._sharpness import sharpness

        logs = {}
        rows, _ = self._watched()
        with evaluated(self.trainer) as model:
            if self._groups:
                gradient, weights = gradients_at(self.trainer, model), weights_of(model)
                device = rows.tokens_NT.device
                batches = [rows.__getitems__(torch.tensor(group, device=device)) for group in self._groups.values()]
                up, down = (gradient(weights, batch)[1] for batch in batches)
                flat = [torch.cat([part.flatten() for part in one.values()]).cpu().double() for one in (up, down)]
                logs["opposing_cosine"] = float(flat[0] @ flat[1] / (flat[0].norm() * flat[1].norm()).clamp(min=1e-30))
                norms = {name: [float(up[name].norm()), float(down[name].norm())] for name in up}
                self._slopes.append({"step": state.global_step, "norms": norms})
            if self.iterations:
                logs["opposing_sharpness"] = sharpness(self.trainer, model, rows, self.iterations, self.chunk)
        if logs:
            self.trainer.log(logs)
        self._write(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state)

    def _write(self, args: Any, state: Any) -> None:
        from pipeline.utils.drafts import write_inside

        if state.is_world_process_zero:
            _, numbers = self._watched()
            groups = {name: [numbers[place] for place in group] for name, group in self._groups.items()}
            text = json.dumps({"groups": groups, "steps": self._seen, "gradients": self._slopes})
            write_inside(Path(args.output_dir), FILE, text.encode())
