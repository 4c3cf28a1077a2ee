"""What became of a run, in sentences that claim no more than was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import DELAY, THRESHOLD, UNLEARNED
from pipeline.utils.format import duration, listed, share, times
from pipeline.utils.markdown import plain


def outcome(run: RunFolder) -> str:
    """What became of a run, in a few words."""
    fit, learned = run.grok.fit_step, run.grok.gen_step
    if not run.evaluations:
        return "not evaluated while training" if run.finished else "not evaluated yet"
    if learned is None:
        if fit is None:
            words = "has not fitted its training set"
        else:
            words = "fits, and has not generalized" if _has_held_out(run) else f"fits at step {fit:,}"
    elif fit is None:
        words = f"generalizes at step {learned:,} without fitting"
    elif run.grok.is_delayed:
        words = f"groks at step {learned:,}"
    elif learned < fit:
        words = f"generalizes at step {learned:,}, before it fits"
    elif learned == fit:
        words = f"fits and generalizes together at step {fit:,}"
    else:
        words = f"fits and generalizes together, at steps {fit:,} and {learned:,}"
    if learned is not None and run.grok.held_out != "id":
        words += f", by {run.grok.held_out}"
    return words if run.finished else f"{words} so far" if learned is None else f"{words} (unfinished)"


def story(run: RunFolder) -> list[str]:
    """The run in a few paragraphs: what it learned and when; how far it came, and on what."""
    return [" ".join(part) for part in (_learned(run), _course(run)) if part]


def _has_held_out(run: RunFolder) -> bool:
    return run.grok.held_out is not None


def _learned(run: RunFolder) -> list[str]:
    return [f"{_found(run)}.", *_since(run), *_matches_at_end(run), *_facts_known(run)]


def _found(run: RunFolder) -> str:
    fit, learned, held_out = run.grok.fit_step, run.grok.gen_step, run.grok.held_out
    if not run.evaluations:
        never = "Its splits were not measured while it trained, so there is no curve"
        return never if run.finished else "Its splits have not been measured yet"
    until = f"by step {run.evaluations[-1]:,}"
    if not _has_held_out(run):
        fits = f"It has not fitted its training set {until}" if fit is None else f"It fits its training set {_at(fit)}"
        return f"{fits}. Its corpus has no held-out split to generalize to"
    if learned is None:
        neither = f"It has neither fitted its training set nor generalized {until}"
        return neither if fit is None else f"It fits its training set {_at(fit)} and has not generalized {until}"
    if fit is None:
        return f"It generalizes {_at(learned)}, and has not fitted its training set {until}"
    if fit == learned:
        return f"It fits its training set and generalizes at the same evaluation, {_at(fit)}: no gap was seen"
    if learned < fit:
        return f"It generalizes {_at(learned)}, before it fits its training set {_at(fit)}: no grokking was seen"
    gap = f", after {times(run.grok.grok_gap)} times as many steps" if run.grok.grok_gap else ""
    both = f"It fits its training set {_at(fit)} and generalizes {_at(learned)}{gap}"
    if run.grok.is_delayed:
        return both
    at_fit = run.grok.match_at_fit
    before = "" if at_fit is None else f"; `{held_out}` was at {share(at_fit)} when it fitted"
    return f"{both}{before}: together, so no grokking was seen"


def _at(step: int) -> str:
    return f"at step {step:,}" if step else "before any training (step 0)"


def _since(run: RunFolder) -> Iterator[str]:
    """Whether it stayed generalized, by the evaluations since."""
    grok = run.grok
    if grok.later:
        count = f"{grok.stayed:,} of {grok.later:,} {'evaluation' if grok.later == 1 else 'evaluations'}"
        yield f"From then on `{grok.held_out}` was at {THRESHOLD} or above in {count}."


def _facts_known(run: RunFolder) -> Iterator[str]:
    """How many of the facts behind a split are known: until all are, a low exact match says nothing of using them."""
    for split, probe in run.fact_probes.items():
        value, known = run.at_end(split, "exact_match"), run.at_end(probe, "exact_match")
        if value is None or known is None or (split == run.grok.held_out and run.grok.gen_step is not None):
            continue
        words = f"Of the facts behind `{split}` it knows {share(known)} (`{probe}`)"
        if known < THRESHOLD and value < THRESHOLD:
            words += f": until it knows them, `{split}` does not say whether it can use them"
        yield f"{words}."


def _matches_at_end(run: RunFolder) -> Iterator[str]:
    """The exact matches at the end, and a word where they are lower than what was seen before."""
    values = {split: run.at_end(split, "exact_match") for split in ["train", *run.held_out]}
    matches = [f"{share(value)} on `{split}`" for split, value in values.items() if value is not None]
    if matches:
        when = "At the end" if run.finished else f"At step {run.evaluations[-1]:,}, the last evaluation,"
        yield f"{when} exact match is {listed(matches)}."
    reached = {"train": run.grok.fit_step, run.grok.held_out: run.grok.gen_step}
    below = [
        split for split, step in reached.items() if step is not None and (values.get(str(split)) or 0.0) < THRESHOLD
    ]
    if below:
        names = listed([f"`{split}`" for split in below])
        yield f"So {names} {'is' if len(below) == 1 else 'are'} not at {THRESHOLD} or above."


def _course(run: RunFolder) -> list[str]:
    step, total = run.last_step, run.total_steps
    found = []
    if not run.series:
        found.append(f"The run is not finished: nothing has been logged yet of its {total:,} steps.")
    elif not run.finished:
        found.append(f"The run is not finished: step {step:,} of {total:,} is the last that was logged.")
    elif step < total:
        patience = run.resolved.get("stop_patience", 0)
        stayed = run.resolved.get("stop_when") == "grokked" and run.grok.streak >= patience
        reason = f", as `{run.grok.held_out}` had stayed at {THRESHOLD} or above for {plain(patience)} evaluations"
        found.append(f"It was stopped at step {step:,} of {total:,}{reason if stayed else ''}.")
    seconds = run.latest("seconds")
    if step and seconds is not None:
        devices = dict.fromkeys(_device(start) for start in run.starts if "device" in start)
        where = f" on {listed(list(devices))}" if devices else ""
        found.append(f"{step:,} {'step' if step == 1 else 'steps'} took {duration(seconds)}{where}.")
    if len(run.starts) > 1:
        found.append(f"The run was started {'twice' if len(run.starts) == 2 else f'{len(run.starts)} times'}.")
    broken = []
    for key in ("loss", "grad_norm", *(f"eval_{split}_loss" for split in ("train", *run.held_out))):
        steps = [at for at, value in zip(*run.series.get(key, ((), ()))) if not math.isfinite(value)]
        if steps:
            broken.append(f"`{key}` ({len(steps):,}, the first at step {steps[0]:,})")
    return [*found, f"Logged values that were not finite: {listed(broken)}."] if broken else found


def _device(start: dict[str, Any]) -> str:
    processes = start.get("processes", 1)
    return plain(start["device"]) + (f" in {processes} processes" if processes > 1 else "")


def method(run: RunFolder) -> str:
    """How fit and gen step were found: what grokking is, by which evaluations, and on how many rows."""
    grok = run.grok
    found = [f"To fit is an exact match of at least {THRESHOLD} on `train`"]
    if _has_held_out(run):
        found[0] += (
            f", to generalize the same on `{grok.held_out}`. It groks where that is delayed: at {DELAY} times the "
        )
        found[0] += f"steps to fit or later, or from an exact match below {UNLEARNED} when it fits"
    found[0] += "."
    before = {after: step for step, after in pairwise(run.evaluations)}
    steps = sorted({step for step in (grok.fit_step, grok.gen_step) if step in before})
    if steps:
        earlier = listed([f"{before[step]:,}" for step in steps])
        found.append(
            "Steps are those of the first evaluation that shows it; "
            + (
                f"the evaluation before was at step {earlier}."
                if len(steps) == 1
                else f"those before were at {earlier}."
            )
        )
    found += _samples(run)
    return " ".join(found)


def _samples(run: RunFolder) -> list[str]:
    """What was measured on a sample, and how large it was."""
    sizes = run.corpus["sizes"]
    sampled = {
        split: run.measured_rows(split, sampled=True)
        for split in sizes
        if run.measured_rows(split, sampled=True) < sizes[split]
    }
    if not sampled or not run.evaluations:
        return []
    rows = listed([f"{count:,} of the {sizes[split]:,} rows of `{split}`" for split, count in sampled.items()])
    found = f"Each evaluation looked at {rows}, the same ones every time"
    if run.finished:
        probe = run.measured_rows("train", sampled=False)
        found += (
            f"; the final numbers are those of all rows{f', {probe:,} of `train`' if probe < sizes['train'] else ''}"
        )
    return [f"{found}."]
