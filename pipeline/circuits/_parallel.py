"""The work of an analysis on the threads that torch may use, each of which computes parts of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from pipeline.circuits.hooks import Hooks

Part = TypeVar("Part")
Result = TypeVar("Result")
LEAST = 64  # rows for which a thread of their own is worth while


def workers_of(hooks: Hooks, rows: int) -> int:
    """How many parts of so many rows are computed at once."""
    if hooks.model.device.type != "cpu":
        return 1
    return max(min(torch.get_num_threads(), rows // LEAST), 1)


def over_threads(
    hooks: Hooks, work: Callable[[Hooks, Part], Result], parts: Sequence[Part], workers: int
) -> list[Result]:
    """What `work` gives for each part, in order, without gradients; so many at once.

    Threads that share each product wait for the slowest at its end, thousands of times; here they wait once. Each has
    hooks of its own, all but one on twins of the model that share its weights.
    """
    if workers == 1:
        return [work(hooks, part) for part in parts]
    threads, own = torch.get_num_threads(), threading.local()
    free = [hooks, *(hooks.twin() for _ in range(workers - 1))]

    def begin() -> None:
        torch.set_num_threads(threads // workers)
        own.hooks = free.pop()

    def run(part: Part) -> Result:
        with torch.no_grad():
            return work(own.hooks, part)

    try:
        with ThreadPoolExecutor(workers, initializer=begin) as pool:
            return list(pool.map(run, parts))
    finally:
        torch.set_num_threads(threads)  # the last number that any thread set is that of threads to come
