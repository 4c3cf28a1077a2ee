"""Preemption: what a signal asks for, and on which step the processes of a run agree to stop.

SIGTERM (Slurm, spot instances), SIGUSR1 (Slurm's `--signal`) and SIGINT (Ctrl-C) end the current step and save. A
second one, a second or more after the first, ends the process at once: launchers pass on signals that a terminal or
Slurm has already sent to everyone, so that two in a moment are one request.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SAVED = 75  # exit status, EX_TEMPFAIL of sysexits.h: stopped early with all saved; the same command goes on
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
ONE_REQUEST = 1.0  # seconds
POLL = 0.25  # seconds


class Stopped(BaseException):
    """A signal that ends the process now: before or after training, where all is saved, or the second one."""

    def __init__(self, number: int, status: int):
        self.name, self.status = signal.Signals(number).name, status


class Request:
    """What signals have asked of this process. `in_training` says whether there is a step to end and to save.

    `is_bound` says whether other processes wait for this one: it then leaves only where all do, after a step.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.in_training = self.is_bound = False
        self.number: int | None = None
        self._since = 0.0

    @property
    def name(self) -> str | None:
        return None if self.number is None else signal.Signals(self.number).name

    def take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
            if not self.in_training and not self.is_bound:
                raise Stopped(number, SAVED)
            which = "this step" if self.in_training else "after the first step"
            if self.in_training or os.environ.get("LOCAL_RANK", "0") == "0":  # one says it for those that begin
                # print would not do: this may have interrupted another one.
                said = f"\n{signal.Signals(number).name}: ending {which} and saving; again to stop at once\n"
                os.write(2, said.encode())
        elif now - self._since >= ONE_REQUEST:
            raise Stopped(number, 128 + number)

    def release(self) -> None:
        """Lets this process leave when it is asked to, now that no other waits for it.

        Raises:
            Stopped: when it has been asked already.
        """
        self.is_bound = False
        if self.number is not None:
            raise Stopped(self.number, SAVED)


REQUEST = Request()


@contextmanager
def stop_signals(is_bound: bool = False) -> Iterator[Request]:
    """Listens to the signals, in the main thread, as long as the block lasts; see `Request` for `is_bound`."""
    REQUEST.forget()
    REQUEST.is_bound = is_bound
    if threading.current_thread() is not threading.main_thread():
        yield REQUEST
        return
    before = {number: signal.signal(number, REQUEST.take) for number in SIGNALS}
    try:
        yield REQUEST
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if is_bound:
            REQUEST.in_training = REQUEST.is_bound = False  # whether it was asked says later who tells a mistake
        else:
            REQUEST.forget()


class Agreement:
    """Lets all processes of a run end on the same step, at no cost to the steps before it.

    A signal reaches some processes, each at another step, and a process that stops alone leaves the others waiting in
    their next collective for ever. Asking all of them at every step would wait for the device at every step. Instead a
    thread of each process looks a few times a second whether anyone wants to stop. If so it promises the others not to
    go beyond the step that it is in; the last step promised is where all of them stop.
    """

    def __init__(self, rank: int, ranks: int, store: Any, request: Request = REQUEST):
        self.rank, self.ranks, self._store, self._request = rank, ranks, store, request
        self._step = 0
        self._hold: int | None = None
        self._last: int | None = None
        self.reason: str | None = None
        self._lock = threading.Lock()
        self._known, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._listen, name="stop agreement", daemon=True)

    def begin(self, step: int) -> None:
        self._step = step
        self._thread.start()

    def ends(self, step: int) -> bool:
        """Whether this step, which has just ended, is the last one. Waits for the others only once one has asked."""
        with self._lock:
            self._step = step
            hold = self._hold
        if hold is None or step < hold:
            return False
        while not self._known.wait(1.0):  # in parts, so that a signal is heard
            if not self._thread.is_alive():
                raise RuntimeError("another process of this run is gone")
        assert self._last is not None
        return step >= self._last

    def close(self) -> None:
        """Ends the thread; only after every process has ended its last step."""
        self._over.set()
        self._thread.join()

    def _listen(self) -> None:
        store = self._store
        while not self._over.wait(POLL):
            if self._request.name:
                store.set("stop", self._request.name)
            if store.check(["stop"]):
                with self._lock:
                    self._hold = self._step + 1  # the step it is in, or about to be in
                store.set(f"step {self.rank}", str(self._hold))
                if self.rank == 0:
                    steps = [self._answer(f"step {rank}") for rank in range(self.ranks)]
                    if None not in steps:
                        store.set("last", str(max(int(step or 0) for step in steps)))
                if (last := self._answer("last")) is not None:
                    self._last, self.reason = int(last), store.get("stop").decode()
                    self._known.set()
                return

    def _answer(self, key: str) -> str | None:
        """Return what is said under a key, or None where training is over before: others may then listen no longer."""
        while not self._store.check([key]):
            if self._over.wait(0.01):
                return None
        return str(self._store.get(key).decode())


def agree(rank: int, ranks: int) -> Agreement:
    """The agreement of all processes of the default group, which all must call; through a store of the first one's."""
    import torch.distributed as dist

    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False) if rank == 0 else None
    port = [store.port if store else 0]
    dist.broadcast_object_list(port)
    return Agreement(rank, ranks, store or dist.TCPStore(host, port[0], is_master=False))
