"""What a person watches: the time left and the course of every split's exact match; in a log, plain lines."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from rich.console import Console as Terminal
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline.callbacks.base import Callback
from pipeline.config.fields import param
from pipeline.runs.grokking import THRESHOLD, match_key
from pipeline.runs.metrics import read_lines
from pipeline.utils.doing import doing
from pipeline.utils.format import duration
from pipeline.utils.log import log
from pipeline.utils.terminal import is_watched

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 32  # columns of a sparkline
HEARTBEAT = 30.0  # seconds after which a plain log shows that the run is alive, between evaluations


def sparkline(values: list[float], width: int = WIDTH) -> str:
    """Values in [0, 1] as a line of block characters, the mean of each share of them where there are many."""
    columns = min(width, len(values))
    cuts = [round(i * len(values) / columns) for i in range(columns + 1)] if columns else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    return "".join(BLOCKS[min(int(mean * len(BLOCKS)), len(BLOCKS) - 1)] for mean in means)


@dataclass
class Console(Callback):
    """A live display on a terminal, one line per evaluation elsewhere."""

    always: ClassVar[bool] = True
    priority: ClassVar[int] = 60

    style: Literal["auto", "live", "plain", "off"] = param("auto", "auto: live on a terminal, plain elsewhere")
    seconds: float = param(2.0, "least time between two plain lines", ge=0)

    _console: Terminal = field(default_factory=Terminal, init=False, repr=False)
    _live: Live | None = field(default=None, init=False, repr=False)
    _quiet: bool = field(default=False, init=False, repr=False)
    _course: dict[str, list[float]] = field(default_factory=dict, init=False, repr=False)
    _latest: Mapping[str, Any] = field(default_factory=dict, init=False, repr=False)
    _loss: tuple[int, float] | None = field(default=None, init=False, repr=False)  # the last that was logged, and when
    _began: float = field(default=0.0, init=False, repr=False)
    _first_step: int = field(default=0, init=False, repr=False)
    _printed: float = field(default=0.0, init=False, repr=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._quiet = self.style == "off" or not state.is_world_process_zero
        self._began, self._first_step = time.monotonic(), state.global_step
        for line in read_lines(Path(args.output_dir), match_key("train")):  # of a run that is resumed
            self._extend(line)
        if self._quiet or self.style == "plain" or (self.style == "auto" and not is_watched(self._console.file)):
            return
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(None), TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(), TextColumn("{task.fields[left]}"), expand=True, console=self._console,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step, speed="", left="")
        doing.clear()
        self._live = Live(self._view(), console=self._console, refresh_per_second=4)
        self._live.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._live:
            pace = _pace(self._speed(state))
            self._bar.update(self._task, completed=state.global_step, speed=pace, left=self._time_left(args, state))
        elif not self._quiet and time.monotonic() - self._printed > HEARTBEAT and state.global_step < state.max_steps:
            self._line(args, state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if "loss" in logs:
            self._loss = state.global_step, logs["loss"]

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        if self._quiet or not self.trainer.is_in_train:
            return
        self._extend(metrics)
        if self._live:
            self._live.update(self._view())
        else:
            self._print(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._live:
            self._live.update(self._view())
            self._live.stop()

    def _extend(self, metrics: Mapping[str, Any]) -> None:
        for split in self.trainer.splits:
            if match_key(split) in metrics:
                self._latest = metrics
                self._course.setdefault(split, []).append(metrics[match_key(split)])

    def _speed(self, state: Any) -> float:
        return (state.global_step - self._first_step) / max(time.monotonic() - self._began, 1e-9)

    def _time_left(self, args: Any, state: Any) -> str:
        """The time to the last step, or to that at which `stop_patience` ends training if it stays generalized."""
        options, steps, speed = self.trainer.recipe.options, state.max_steps - state.global_step, self._speed(state)
        if options.stop_when == "grokked" and self.trainer.grok.streak:
            steps = min(steps, round((options.stop_patience - self.trainer.grok.streak) * args.eval_steps))
        return f"{duration(steps / speed)} left" if speed > 0 and steps > 0 else ""

    def _print(self, args: Any, state: Any, control: Any) -> None:
        """A line for an evaluation, unless the last one was printed just now and nothing happened since."""
        step, grok = state.global_step, self.trainer.grok
        generalizes = "generalizes" if grok.grok_step is None else "groks"
        news = [name for name, at in (("fits", grok.fit_step), (generalizes, grok.gen_step)) if at == step]
        last = step >= state.max_steps or control.should_training_stop
        if news or last or step == self._first_step or time.monotonic() - self._printed >= self.seconds:
            loss = f"  loss {self._latest['eval_train_loss']:.4f}"
            matches = "".join(f"  {split} {course[-1]:.3f}" for split, course in self._course.items())
            self._line(args, state, loss + matches, f"  <- {' and '.join(news)}" if news else "", last)

    def _line(self, args: Any, state: Any, values: str = "", news: str = "", last: bool = False) -> None:
        """A line for a step, without `values` with the loss that was logged last, and for which step."""
        self._printed = time.monotonic()
        if not values and self._loss is not None:
            values = f"  loss {self._loss[1]:.4f}"
            values += f" up to step {self._loss[0]}" if self._loss[0] < state.global_step else ""
        speed = self._speed(state)
        pace = f"  {_pace(speed)}" if speed > 0 else ""
        left = f"  {self._time_left(args, state)}" if speed > 0 and not last else ""
        step = f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
        log.info(f"{step}{values}{pace}{left}{news}")

    def _view(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("split", "", "exact match", "course".ljust(WIDTH), "loss"):
            table.add_column(name, justify="right" if name in ("exact match", "loss") else "left")
        for split, course in self._course.items():
            colour = "green" if course[-1] >= THRESHOLD else "yellow" if course[-1] > 0.5 else "red"
            loss = self._latest[f"eval_{split}_loss"]
            role = "held out" if split in self.trainer.held_out else "trained"
            match, line = Text(f"{course[-1]:.3f}", colour), Text(sparkline(course), colour)
            table.add_row(split, Text(role, "dim"), match, line, f"{loss:.4f}")
        return Group(self._bar, table, Text(self._state(), "bold"))

    def _state(self) -> str:
        grok = self.trainer.grok
        fit = "not fitted yet" if grok.fit_step is None else f"fits at step {grok.fit_step}"
        if grok.gen_step is None:
            return fit
        if grok.grok_step is None:
            return f"{fit}; generalizes at step {grok.gen_step}"
        gap = "" if grok.grok_gap is None else f", {grok.grok_gap:.1f} times as many"
        return f"{fit}; groks at step {grok.grok_step}{gap}"


def _pace(speed: float) -> str:
    return f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step" if speed > 0 else ""
