"""Writing beside training: weights are copied to the host, and a thread writes, hashes and renames them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch


class Writer:
    """One job at a time on a thread of its own.

    An error of a job is raised by the next call of any method, on the thread that calls it. Jobs that are waiting when
    the process ends are still done.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._job: Future[None] | None = None
        self._host: dict[tuple[int, torch.Size], torch.Tensor] = {}

    def start(self, job: Callable[[], None]) -> None:
        """Starts a job, after the one before it."""
        self.wait()
        self._job = self._pool.submit(job)

    def check(self) -> None:
        """Raises the error of a job that has ended with one; waits for nothing."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Waits until nothing is left to do."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def copy(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Callable[[], None]]:
        """A copy of the weights on the host, whole once the second value has been called; tied weights stay tied.

        It lies in memory that the next copy uses again, so the job before must be done: this waits for it.
        """
        self.wait()
        places: dict[tuple[int, torch.Size], torch.Tensor] = {}
        for weight in weights.values():
            place = (weight.data_ptr(), weight.shape)
            if place not in places:
                host = self._host.pop(place, None)
                if host is None:
                    host = torch.empty(weight.shape, dtype=weight.dtype, pin_memory=weight.is_cuda)
                places[place] = host.copy_(weight.detach(), non_blocking=True)
        self._host = places
        found = {name: places[weight.data_ptr(), weight.shape] for name, weight in weights.items()}
        if not any(weight.is_cuda for weight in weights.values()):
            return found, lambda: None
        copied = torch.cuda.Event()
        copied.record()
        return found, copied.synchronize
