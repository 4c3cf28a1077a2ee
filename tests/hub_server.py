"""A server on loopback that speaks the Hub's protocol as huggingface_hub 2.4 uses it, with faults on request.

It creates repositories, takes commits with files inline and by the LFS protocol, keeps branches, and serves trees and
files; large files come by a redirect to another host name, as the Hub's do. Everything lies in memory.
"""

from __future__ import annotations

import io
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.hub_routes import Handler
from tests.hub_store import Faults, Repo
from tests.tiny import RECIPE, run_process

CLOSED = "http://127.0.0.1:9"  # where nobody answers
TOKEN = "hf_notatokenthatanyonehas0123456789"
# Weights of 16 kB and one step after the other: 30 kept steps and little else.
MANY = RECIPE.replace("every: [[10, null]]", "every: [[1, null]]").replace("max_steps: 24", "max_steps: 29")
MANY = MANY.replace("eval_steps: 6", "eval_steps: 29").replace("save_steps: 6", "save_steps: 29")


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS: sha256 -> what is stored
        self.stored: Counter[str] = Counter()  # how many times each was uploaded to its end
        self.commits_made = 0
        self.served = 0  # requests
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self.faults = Faults()
        self.lock = threading.RLock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes the real clients talk to this server and to no other, by plain LFS."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def reset(self) -> None:
        """Forgets everything."""
        with self.lock:
            self.repos.clear()
            self.objects.clear()
            self.stored.clear()
            self.served = self.commits_made = 0

    def content(self, repo: str, revision: str, path: str) -> bytes:
        blob = self.repos[repo].tree(revision)[path]
        return blob.content if blob.lfs is None else self.objects[blob.lfs]

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        return {path: self.content(repo, revision, path) for path in self.repos[repo].tree(revision)}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, as those that are killed do, is no error of this server's."""


@contextmanager
def hub_server() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def hub(server: HubServer, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    home = {"HF_HOME": str(Path(environment.pop("home", os.environ["GROKLAB_CACHE"])) / "hf")}
    return run_process("-m", "pipeline.hub", *words, **{**server.environment, "HF_TOKEN": TOKEN, **home, **environment})


def weights(run: Path, step: int) -> bytes:
    return (run / "steps" / f"step{step}" / "model.safetensors").read_bytes()


class Answer(NamedTuple):
    """What a command in this process said, and its exit status."""

    status: int
    out: str
    err: str


Hub = Callable[..., Answer]


@contextmanager
def in_this_process(server: HubServer) -> Iterator[Hub]:
    """The hub command in this process, with the real client set as `server.environment` would set it at its import."""
    from huggingface_hub import constants

    from pipeline.hub import repository as remote
    from pipeline.hub.__main__ import main

    def run(*words: object) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = main([str(word) for word in words])
        return Answer(status, out.getvalue(), err.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.endpoint)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(remote, "FIRST_WAIT", 0.01)  # seconds
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("NO_PROXY", server.environment["NO_PROXY"])
        yield run
