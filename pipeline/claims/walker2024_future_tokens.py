"""States that several tokens are predicted from vary more smoothly along a text, and programs gain (Walker 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.circuits.tables import read_table
from pipeline.claims._curves import over_arms
from pipeline.claims.base import Claim, Found, Measured, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.smoothness import TITLE, curve_of
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key
from pipeline.runs.metrics import Series

GPT, LINEAR, DECODER = "next token", "linear heads", "decoder"
SIZES = "n_layer: 2, n_embd: 64, n_head: 4, n_inner: 128, n_positions: 24, dropout: 0, initializer_range: 0.1"
LARGE = "preset: gpt2, n_positions: 512, dropout: 0.1"


@dataclass(frozen=True)
class Walker2024FutureTokens(Claim):
    """Short programs by the next token alone, and by more tokens ahead through linear heads or a decoder.

    All take as many steps; one of the decoder takes three times as long as one of the next token.
    """

    paper: ClassVar = Paper("Walker 2024", "2410.18160", "abstract; its programs are not published, ours are drawn")
    recipe: ClassVar = "toy_programs"
    targets: ClassVar = (
        Target("smoothness at equal loss: decoder minus next token", "top states vary more smoothly", low=0.02),
        Target("smoothness at equal loss: decoder minus linear heads", "not said", low=0),
        Target("id: decoder minus next token", "significantly better on toy programs", low=0.02),
        Target("id: linear heads minus next token", "not said", low=0),
    )
    costs: ClassVar = {"cpu": "9 runs, 15 minutes on one CPU core", "paper": "9 runs of 100,000 steps, on a GPU"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        more = {
            "smoke": {
                "max_steps": "4", "eval_steps": "2", "global_batch_size": "16", "corpus.train_rows": "200",
                "checkpoints.every": "[[2, null]]",
            },
            "cpu": {},
            "paper": {
                "corpus.fewest_lines": "4",
                "corpus.variables": "8", "corpus.modulus": "100", "corpus.most_lines": "16",
                "corpus.train_rows": "1000000", "max_steps": "100000", "eval_steps": "2000",
                "checkpoints.every": "[[2000, null]]", "learning_rate": "3e-4", "warmup_steps": "2000",
                "weight_decay": "0.1",
            },
        }[self.budget]  # fmt: skip
        sizes, ahead = (LARGE, "n_future: 8, n_pseudo: 8") if self.budget == "paper" else (
            SIZES, "n_future: 3, n_pseudo: 2")  # fmt: skip
        return {
            GPT: {"model": f"{{name: gpt2, {sizes}}}", "objective": "{name: next_token, tokens: all}", **more},
            LINEAR: {"model": f"{{name: gpt2_future_tokens, {sizes}, {ahead}, heads: linear}}", **more},
            DECODER: {"model": f"{{name: gpt2_future_tokens, {sizes}, {ahead}}}", **more},
        }

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends: dict[str, float | None] = {split: run.at_end(split, "exact_match") for split in ("train", "id")}
        return {**ends, "id loss": run.at_end("id", "loss"), "smoothness": _smoothness(run).values[-1]}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        key, _, rest = target.name.partition(": ")
        one, other = rest.split(" minus ")
        if key in ("id", "train"):
            pairs = found.pairs(key, one, other)
        else:
            seeds = {run.seed: run for run in found.arms[other]}
            pairs = [_at_equal_loss(run, seeds[run.seed]) for run in found.arms[one] if run.seed in seeds]
        return [None if a is None or b is None else a - b for a, b in pairs]

    def draw(self, found: Found) -> Drawing:
        runs = {arm: [one.run for one in ones] for arm, ones in found.arms.items()}
        words = "Exact match on held-out programs, loss of their answers, and how smoothly top states vary along a "
        words += "program, over training steps, mean over seeds."
        figure = over_arms(
            {
                "exact match on held-out programs": {
                    arm: [run.series[match_key("id")] for run in each] for arm, each in runs.items()
                },
                "loss of their answers": {arm: [_loss(run) for run in each] for arm, each in runs.items()},
                TITLE: {arm: [_smoothness(run) for run in each] for arm, each in runs.items()},
            }
        )
        return Drawing(figure, words, words)


def _loss(run: RunFolder) -> Series:
    return run.series["eval_id_loss"]


def _smoothness(run: RunFolder) -> Series:
    """That of top states, over kept steps."""
    table = read_table(run.path, "smoothness")
    return curve_of(table, max(table["layer"].to_pylist()))


def _at_equal_loss(*runs: Measured) -> tuple[float | None, float | None]:
    """The smoothness of two runs where each first has the loss that both reach."""
    level = max(min(_loss(one.run).values) for one in runs)
    found = []
    for one in runs:
        step = next(step for step, loss in zip(*_loss(one.run)) if loss <= level)
        smooth = _smoothness(one.run)
        found.append(dict(zip(smooth.steps, smooth.values)).get(step))
    return found[0], found[1]
