"""What a process asks of the libraries below torch: memory that is kept, and threads that wait briefly."""

from __future__ import annotations

import ctypes
import os

# Names and numbers of malloc.h; glibc allows no larger MMAP_THRESHOLD.
TRIM_THRESHOLD, MMAP_THRESHOLD = (-1, 1 << 30), (-3, 32 << 20)


def keep_memory() -> None:
    """Lets glibc keep up to 1 GiB of freed memory, and serve blocks below 32 MiB from it.

    By default it returns the activations of every step to the system, which hands them out again page by page, each
    zeroed at its first touch. Nothing happens with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for threshold in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            mallopt(*threshold)


def wait_briefly() -> None:
    """Lets threads that have nothing to do spin for microseconds, then sleep; to be called before torch is imported.

    By default they spin for milliseconds, and slow each other down several times over where others use the machine too;
    without any spinning, steps of many short products take half as long again.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:  # a user's choice stays
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ["GOMP_SPINCOUNT"] = "2000"  # of GNU's OpenMP, for which it counts before the policy
