"""Processes that run a command of ours, forked from one that has imported torch and transformers already.

Such a process begins three seconds of CPU time sooner, and is otherwise what `subprocess` starts: it has its own
environment, folder, streams and exit status, and imports `pipeline` anew. Libraries read their environment while they
are imported, so that each environment has a process to fork from, once a second command asks for it; the first one is
started as usual. What is about starting, importing or the command line itself takes `subprocess`.

    python -m tests.forked DESCRIPTOR     answers requests from a socket; started by `run`
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    "torch",
    "torch._dynamo",
    "transformers.trainer",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "accelerate",
    "evaluate",
    "pandas",
    "matplotlib.pyplot",
    "jinja2",
)
# Which processes of one environment differ in, and no library reads while it is imported.
OWN = ("PWD", "OLDPWD", "PYTHONPATH", "PYTEST_CURRENT_TEST", "GROKLAB_STATUS")
MOST = 2  # processes to fork from, as each takes some memory


class _Source:
    """A process to fork from."""

    def __init__(self, environment: dict[str, str]):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
        environment = {**environment, "PYTHONPATH": str(ROOT)}
        # Its streams are made for what is no terminal, and nothing has passed through them when it forks.
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()

    def start(self, request: dict[str, Any], streams: list[int]) -> socket.socket:
        """Fork; returns the socket on which its process id and its exit status come."""
        ours, theirs = socket.socketpair()
        socket.send_fds(self._socket, [json.dumps(request).encode()], [*streams, theirs.fileno()])
        theirs.close()
        return ours

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_Key = tuple[tuple[str, str], ...]
_asked: set[_Key] = set()
_sources: dict[_Key, _Source] = {}


def run(*words: str, cwd: Path, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run `-m MODULE ...`, `-c CODE ...` or `SCRIPT ...` of Python's to its end; return its status and its words.

    Raises:
        subprocess.TimeoutExpired: when it takes longer; it has been killed then.
    """
    key = tuple(sorted(item for item in env.items() if item[0] not in OWN))
    if key not in _asked:
        _asked.add(key)
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)
    if key not in _sources:
        while len(_sources) >= MOST:
            _sources.pop(next(iter(_sources))).close()
        _sources[key] = _Source(env)
    _sources[key] = source = _sources.pop(key)  # the one used last is the last to be closed
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull) as nothing:
        request = {"words": words, "cwd": str(cwd), "env": env}
        with source.start(request, [nothing.fileno(), out.fileno(), err.fileno()]) as child:
            child.settimeout(timeout)
            told = child.makefile()
            pid = int(told.readline())
            try:
                status = int(told.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(words, timeout) from None
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(words, status, *said)


@atexit.register
def _close_all() -> None:
    while _sources:
        _sources.popitem()[1].close()


def _serve(requests: socket.socket) -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1  # others would not be in a fork, and what they hold would stay held
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets children that have ended
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        if not data:
            return
        if os.fork() == 0:
            requests.close()
            _wait_for(json.loads(data), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _wait_for(request: dict[str, Any], descriptors: list[int]) -> None:
    """Fork once more, and tell the process id and the exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, told = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _become(request, streams)
    os.write(told, f"{pid}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(told, f"{status}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Be the process of a command: its streams, folder, environment and path; then run it, and end as Python ends."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    how, *arguments = request["words"]
    name = arguments.pop(0) if how in ("-m", "-c") else how
    first = str(Path(name).resolve().parent) if name == how else request["cwd"] if how == "-m" else ""
    rest = [entry for entry in sys.path if entry not in ("", str(ROOT))]
    sys.path[:] = [first, *filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep)), *rest]
    for module in [each for each in sys.modules if each.partition(".")[0] in ("tests", "pipeline")]:
        del sys.modules[module]
    sys.argv[:] = ["-c" if how == "-c" else name, *arguments]
    atexit._clear()
    status: Any = 0
    try:
        if how == "-m":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        elif how == "-c":
            exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as end:
        status = end.code
        if status is not None and not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
