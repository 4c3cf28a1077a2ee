"""Memory that a step of training gives back is kept for the next one."""

from __future__ import annotations

import ctypes

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
