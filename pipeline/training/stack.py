"""Several runs whose updates are made as one, each trained by its own trainer otherwise.

Every run has its trainer, callbacks, folder and generators, as if it were alone, in a thread of its own. The threads
take turns, and only one of them is ever awake: each goes on until it needs updates or a measurement, and once all of
them wait, the main thread makes these for all of them together. So evaluation, logs, kept steps, checkpoints, signals
and resuming are those of a run that is alone, by the same code, and runs that are at different steps, or end at
different steps, stand in one stack.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.data.rows import RowOrder, Rows, joined
from pipeline.kernels.cuda_graph import Captured
from pipeline.kernels.stacked import IDLE, AdamW, Stacked
from pipeline.training.announcement import ending
from pipeline.training.evaluation import group_sums, judge
from pipeline.training.session import train
from pipeline.training.trainer import GrokTrainer
from pipeline.training.turns import quiet_updates
from pipeline.utils.seeds import torch_seed
from pipeline.utils.signals import REQUEST

IDLING = 0.25  # share of the places of a CUDA graph that may idle before the stack is made anew


class Updates(NamedTuple):
    """A run asks for updates, `most` of them."""

    order: RowOrder
    most: int


class Sums(NamedTuple):
    """A run asks for what is judged of rows."""

    rows: Rows
    group_N: torch.Tensor
    groups: int


@dataclass
class Place:
    """Where an evaluation of several runs is computed: in this process, the fewer rows at a time the more runs."""

    device: torch.device
    eval_batch_size: int
    world_size: int = 1
    process_index: int = 0


class Member:
    """A run of a stack. `request`: what it waits for; None once it is over. `error`: what ended it.

    Whatever is global and belongs to one run is its own while it is awake: the states of the generators, and the
    streams that its lines go to.
    """

    def __init__(self, trainer: GrokTrainer, output: Path | None = None):
        """Args:
        trainer: As `prepare` has just left it, and the generators with it.
        output: A file that its lines are added to.
        """
        self.trainer, self.output = trainer, output
        self.request: Updates | Sums | None = None
        self.error: BaseException | None = None
        trainer.loop.stack = trainer.evaluation.stack = self
        self._states = _generators(trainer.args.device)
        self._answer: Any = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._train, name=trainer.recipe.name, daemon=True)

    def go_on(self, answer: Any = None) -> None:
        """Lets the run go on with what it waits for, until it waits again or is over."""
        self._answer = answer
        with self._awake():
            if not self._thread.is_alive():
                self._thread.start()
            else:
                self._turn.release()
            self._back.acquire()

    def ending(self) -> str:
        """Why the run has not been trained to its end; nothing where it has been."""
        if self.error is not None:
            return " ".join(f"{type(self.error).__name__}: {self.error}".split())
        is_over = not (self.trainer.saving.failure or self.trainer.stopped_by)
        return "" if is_over else ending(self.trainer)

    def _train(self) -> None:
        try:
            train(self.trainer)
        except BaseException as error:
            self.error = error
        self.request = None
        self._back.release()

    def _wait(self, request: Updates | Sums) -> Any:
        """Gives the turn back until there is an answer; called by the run's own thread."""
        self.request = request
        self._back.release()
        self._turn.acquire()
        return self._answer

    def updates(self, order: RowOrder, left: int) -> tuple[Sequence[torch.Tensor], torch.Tensor, float]:
        found: tuple[Sequence[torch.Tensor], torch.Tensor, float]
        found = self._wait(Updates(order, quiet_updates(self.trainer, left)))
        return found

    def sums(self, rows: Rows, group_N: torch.Tensor, groups: int) -> torch.Tensor:
        found: torch.Tensor = self._wait(Sums(rows, group_N, groups))
        return found

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        device = self.trainer.args.device
        outside = _generators(device)
        _set_generators(device, self._states)
        with contextlib.ExitStack() as streams:
            if self.output is not None:
                file = streams.enter_context(open(self.output, "a", encoding="utf-8", errors="replace"))
                streams.enter_context(contextlib.redirect_stdout(file))
                streams.enter_context(contextlib.redirect_stderr(file))
            try:
                yield
            finally:
                self._states = _generators(device)
                _set_generators(device, outside)


def _generators(device: torch.device) -> list[Any]:
    states: list[Any] = [random.getstate(), np.random.get_state(), torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_generators(device: torch.device, states: Sequence[Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[3], device)


class Stack:
    """Trains runs together, each from its newest checkpoint or its start to its end.

    `updates`: how many were made, over all runs.
    """

    def __init__(self, members: Sequence[Member]):
        self.members = members
        self.args = members[0].trainer.args
        self._stacked: Stacked | None = None
        self.updates = 0
        self._inside: list[Member] = []  # whose weights lie in the stack, in its order

    def run(self) -> None:
        """Trains all of them. One that fails has its `error`, and the others go on."""
        self._go_on([(member, None) for member in self.members])
        while live := [member for member in self.members if member.request is not None]:
            self._stack(live)
            if asking := [(member, request) for member in live if isinstance(request := member.request, Sums)]:
                self._measure(asking)
            else:
                self._update(live)
        self._release()

    def _go_on(self, answers: Sequence[tuple[Member, Any]]) -> None:
        for member, answer in answers:
            member.go_on(answer)
            REQUEST.in_training = True  # a run that ends says that there is nothing to save any more
        REQUEST.in_training = any(member.request is not None for member in self.members)

    def _release(self, live: Sequence[Member] = ()) -> None:
        """Takes all runs but these out of the stack."""
        for run, member in enumerate(self._inside):
            if self._stacked is not None and member not in live:
                self._stacked.release(run)

    def _stack(self, live: Sequence[Member]) -> None:
        """Makes the stack anew where runs have left it; a CUDA graph is kept while few of its places idle."""
        inside = len(self._inside)
        may_idle = self._stacked is not None and self._stacked.captured is not None
        self._release(live)
        if inside and inside - len(live) <= (IDLING * inside if may_idle else 0):
            return
        self._release()
        trainers = [member.trainer for member in live]
        corpora = [trainer.recipe.corpus for trainer in trainers]
        kinds = [corpora.index(corpus) for corpus in corpora]
        own = {kind: trainers[kind].train_rows for kind in dict.fromkeys(kinds)}
        starts = dict(zip(own, np.cumsum([0, *map(len, own.values())]).tolist()))
        self._starts_R1 = torch.tensor([starts[kind] for kind in kinds], device=self.args.device)[:, None]
        self._adamw = [AdamW.of(trainer.loop.optimizer, trainer.args.max_grad_norm) for trainer in trainers]
        self._stacked = Stacked(
            [trainer.model for trainer in trainers],
            [trainer.loop.optimizer for trainer in trainers],
            joined(list(own.values())) if len(own) > 1 else own[0],
            trainers[0].recipe.objective.token_losses,
            self._autocast,
        )
        self._inside = list(live)
        if self.args.device.type == "cuda":
            rows = len(live) * trainers[0].loop.rows_per_update
            self._stacked.captured = Captured(None, rows, self.args.device)

    def _autocast(self) -> Any:
        if not self.args.bf16:
            return contextlib.nullcontext()
        # Each weight is read once in a forward, so that nothing is gained by keeping what it was cast to.
        return torch.autocast(self.args.device.type, torch.bfloat16, cache_enabled=False)

    def _update(self, live: Sequence[Member]) -> None:
        """Makes as many updates as no run has anything to do between, and lets all go on."""
        assert self._stacked is not None
        requests = {id(member): member.request for member in live}
        count = min(request.most for request in requests.values() if isinstance(request, Updates))
        runs, device = len(self._inside), self.args.device
        rows_SRB = torch.zeros(count, runs, self.members[0].trainer.loop.rows_per_update, dtype=torch.int64)
        numbers_SRN = np.broadcast_to(np.array(IDLE, np.float32), (count, runs, len(IDLE))).copy()
        keys_SR = torch.zeros(count, runs, dtype=torch.int64)
        rates = [0.0] * runs
        for run, member in enumerate(self._inside):
            request, trainer = requests.get(id(member)), member.trainer
            if not isinstance(request, Updates):
                continue
            begin, group = trainer.state.global_step, trainer.loop.optimizer.param_groups[0]
            for update in range(count):
                rates[run] = group["lr"]
                rows_SRB[update, run] = request.order.update_rows(begin + update)
                numbers_SRN[update, run] = self._adamw[run].numbers(rates[run], self._stacked.steps[run] + update + 1)
                keys_SR[update, run] = torch_seed("masks", trainer.args.seed, begin + update, 0)
                trainer.lr_scheduler.step()
        rows_SRB = rows_SRB.to(device) + self._starts_R1
        numbers_SNR = torch.from_numpy(numbers_SRN).to(device).mT
        found = [self._stacked.update(*each) for each in zip(rows_SRB, numbers_SNR, keys_SR.to(device))]
        losses_RS, norms_R = torch.stack([loss_R for loss_R, _ in found], 1), found[-1][1]
        answers = []
        for run, member in enumerate(self._inside):
            if id(member) in requests:
                self._stacked.count(run, count)
                self.updates += count
                answers.append((member, (losses_RS[run].unbind(), norms_R[run], rates[run])))
        self._go_on(answers)

    def _measure(self, asking: Sequence[tuple[Member, Sums]]) -> None:
        """Measures runs, those of one corpus in one pass."""
        assert self._stacked is not None
        stacked, objective = self._stacked, asking[0][0].trainer.recipe.objective
        corpora = [(member.trainer.recipe.corpus, len(request.rows)) for member, request in asking]
        asked: dict[int, list[Member]] = {}
        for (member, _), corpus in zip(asking, corpora):
            asked.setdefault(corpora.index(corpus), []).append(member)
        answers: list[tuple[Member, Any]] = []
        for first, members in asked.items():
            request = asking[first][1]
            runs = [self._inside.index(member) for member in members]
            place = Place(self.args.device, max(1, self.args.eval_batch_size // len(runs)))

            def judged(batch: Any, runs: Sequence[int] = runs) -> Any:
                labels_BA = batch["labels"]
                return judge(
                    stacked.judged_logits(runs, batch), labels_BA.expand(len(runs), *labels_BA.shape), objective
                )

            sums_RG4 = group_sums(judged, request.rows, request.group_N, request.groups, place)
            answers += zip(members, sums_RG4)
        self._go_on(answers)
