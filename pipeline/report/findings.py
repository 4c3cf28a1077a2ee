"""What is to be seen in the curves of a run, in sentences from its numbers."""

from __future__ import annotations

from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import THRESHOLD, match_key
from pipeline.runs.metrics import Series
from pipeline.utils.format import amount, share


def of_curve(run: RunFolder) -> str:
    """When the training set and the held-out split come to half and to 0.99, and where the one is when the other is."""
    grok = run.grok
    if grok.held_out is None or match_key(grok.held_out) not in run.series:
        return ""
    held_out, trained = run.series[match_key(grok.held_out)], run.series.get(match_key("train"))
    words = []
    if grok.fit_step is not None and grok.match_at_fit is not None:
        meanwhile = f"where `{grok.held_out}` is at {share(grok.match_at_fit)}"
        words.append(f"`train` is at {THRESHOLD} at step {grok.fit_step:,}, {meanwhile}")
    half = _first(held_out, 0.5)
    if half is not None:
        words.append(f"`{grok.held_out}` passes 0.5 at step {half:,}")
        if grok.gen_step is not None and grok.gen_step > half:
            words[-1] += f" and takes {grok.gen_step - half:,} more to {THRESHOLD}"
    elif trained and trained.values:
        best = max(held_out.values, default=0.0)
        words.append(f"`{grok.held_out}` has not passed 0.5; its highest is {share(best)}")
    return f"In this run {'; '.join(words)}." if words else ""


def of_training(run: RunFolder) -> str:
    """When the held-out loss is highest, when it falls, and the way of the norm of the weights."""
    words = []
    split = run.grok.held_out
    if split and (loss := run.series.get(f"eval_{split}_loss")) and len(loss.steps) > 2:
        peak = max(range(len(loss.values)), key=lambda i: loss.values[i])
        if 0 < peak < len(loss.values) - 1 and loss.values[peak] > 1.1 * loss.values[0]:
            words.append(
                f"The loss on `{split}` is highest at step {loss.steps[peak]:,}, {amount(loss.values[peak])}, "
                f"{amount(loss.values[peak] / loss.values[0])} times what it was before training"
            )
            fallen = next((i for i in range(peak, len(loss.values)) if loss.values[i] < loss.values[peak] / 2), None)
            match = run.series.get(match_key(split))
            if fallen is not None and match and loss.steps[fallen] in match.steps:
                at = match.values[match.steps.index(loss.steps[fallen])]
                words[-1] += f"; it has halved by step {loss.steps[fallen]:,}, where exact match is {share(at)}"
    norm = run.series.get("weight_norm")
    if norm and len(norm.steps) > 2:
        peak = max(range(len(norm.values)), key=lambda i: norm.values[i])
        way = f"goes from {amount(norm.values[0])} to {amount(norm.values[-1])}"
        if 0 < peak < len(norm.values) - 1 and norm.values[peak] > 1.02 * max(norm.values[0], norm.values[-1]):
            way += f", and is highest at step {norm.steps[peak]:,}, {amount(norm.values[peak])}"
        words.append(f"The norm of the weights {way}")
    return " ".join(f"{sentence}." for sentence in words)


def _first(series: Series, least: float) -> int | None:
    """The first step at which a series is at least so high."""
    return next((step for step, value in zip(*series) if value >= least), None)
