"""Every request of a push fails in every way, and the same command ends with the repository of an undisturbed push."""

from __future__ import annotations

import hashlib
import itertools
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import Answer, Hub, HubServer, in_this_process
from tests.hub_store import FAULTS

WORDS = ("--repo", "user/x", "--steps", "0,8", "--corpus", "user/data", "--private")

State = dict[tuple[str, str], dict[str, str]]


@pytest.fixture
def hub(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.002)))  # the clients wait for seconds
    with in_this_process(server) as run:
        yield run


def state(server: HubServer) -> State:
    """Every branch of every repository: path -> hash of the bytes."""
    return {
        (name, branch): {
            path: hashlib.sha256(server.content(name, branch, path)).hexdigest() for path in repo.tree(branch)
        }
        for name, repo in server.repos.items()
        for branch in repo.branches
    }


def push(hub: Hub, run: Path) -> Answer:
    return hub("push", run, *WORDS)


def undisturbed(hub: Hub, server: HubServer, run: Path) -> tuple[State, int]:
    """What a push leaves, and how many requests it makes."""
    done = push(hub, run)
    assert done.status == 0, done
    return state(server), server.served


def failing(hub: Hub, server: HubServer, run: Path, right: State, fault: str, number: int) -> str:
    """Pushes with a fault at one request, and again; returns what is wrong with that, or nothing."""
    server.reset()
    (run / "pushed.json").unlink(missing_ok=True)
    server.faults.kind, server.faults.at = fault, number
    first = push(hub, run)
    server.faults.at = None
    between = state(server)
    lines = first.err.splitlines()
    claims_all = "user/x has it all" in first.out
    if "Traceback" in first.err or len([line for line in lines if line and "trying again" not in line]) > 1:
        return f"said {first.err!r}"
    if (first.status == 0) != claims_all or (claims_all and between != right):
        return f"ended with {first.status}, and said {first.out!r}"
    if first.status not in (0, 2, 130) or (first.status and not lines):
        return f"ended with {first.status}, and said {first.err!r}"
    for (name, branch), files in between.items():
        # A revision is empty or whole, and main is the last.
        if files not in (right[name, branch], {".gitattributes": files.get(".gitattributes", "")}):
            return f"left {name} {branch} with {sorted(files)}"
    if between.get(("user/x", "main")) == right["user/x", "main"] and between != right:
        return "sent main before the others"
    again = push(hub, run)
    if again.status or "user/x has it all" not in again.out:
        return f"could not go on: {again}"
    if state(server) != right:
        return "ended with another repository"
    for name, repo in server.repos.items():
        written = [sha for sha, (parent, _) in repo.commits.items() if parent]
        if len(written) > len(repo.branches) or not repo.private:
            return f"wrote {name} {len(written)} times"
    return ""


def problem_of(hub: Hub, server: HubServer, run: Path, right: State, fault: str, number: int) -> str:
    """As `failing`; an exception of the command is one more way to be wrong, and the other cases are tried too."""
    try:
        return failing(hub, server, run, right, fault, number)
    except Exception as error:  # any bug of the command's is what this looks for
        return f"raised {error!r}"


def survivors(hub: Hub, server: HubServer, run: Path, cases: list[tuple[str, int]], right: State) -> list[str]:
    found = [(fault, number, problem_of(hub, server, run, right, fault, number)) for fault, number in cases]
    return [f"{fault} at request {number}: {problem}" for fault, number, problem in found if problem]


def test_some_requests_of_a_push_fail(kept_run: Path, server: HubServer, hub: Hub, tmp_path: Path) -> None:
    run = Path(shutil.copytree(kept_run, tmp_path / "run"))
    right, requests = undisturbed(hub, server, run)
    draw = random.Random(0)
    cases = [("409", number) for number in range(1, 4)]  # to create_repo without its address, too
    cases += [(fault, draw.randrange(1, requests + 1)) for fault in draw.sample(FAULTS, 8)]
    assert not survivors(hub, server, run, cases, right)


@pytest.mark.slow
def test_every_request_of_a_push_fails(kept_run: Path, server: HubServer, hub: Hub, tmp_path: Path) -> None:
    run = Path(shutil.copytree(kept_run, tmp_path / "run"))
    right, requests = undisturbed(hub, server, run)
    cases = list(itertools.product(FAULTS, range(1, requests + 1)))
    bad = survivors(hub, server, run, cases, right)
    print(f"\n{requests} requests x {len(FAULTS)} faults: {len(cases) - len(bad)} of {len(cases)} end as undisturbed")
    assert not bad, "\n".join(bad)
