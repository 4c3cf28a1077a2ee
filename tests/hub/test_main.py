"""Pushing, verifying and pulling runs, with the real clients against a server on loopback that can fail on request."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.runs.folder import RunFolder
from pipeline.runs.verify import verify
from tests.hub_server import CLOSED, TOKEN, HubServer, hub, weights
from tests.tiny import ROOT, run_here, run_process, write_recipe


def test_a_push_is_whole_repeatable_and_comes_back(kept_run: Path, server: HubServer, tmp_path: Path) -> None:
    words = (
        "push",
        str(kept_run),
        "--repo",
        "user/tiny",
        "--steps",
        "0,8,29",
        "--corpus",
        "user/tiny-data",
        "--private",
    )
    first = hub(server, *words)
    assert first.returncode == 0, first.stderr
    assert "[1/4] step0: sent" in first.stdout and "[4/4] main: sent" in first.stdout
    repo = server.repos["user/tiny"]
    assert repo.private and server.repos["user/tiny-data"].private
    assert repo.branches.keys() == {"main", "step0", "step8", "step29"}
    for step in (0, 8, 29):
        assert server.content("user/tiny", f"step{step}", "model.safetensors") == weights(kept_run, step)
        # One commit on top of the empty first one, so that no other step's weights ever stood there.
        parent, tree = repo.commits[repo.branches[f"step{step}"]]
        assert parent is not None and repo.commits[parent][1].keys() == {".gitattributes"}
        assert tree.keys() >= {"README.md", "manifest.json", "recipe.yaml", "tokenizer.json", "config.json"}
    assert server.content("user/tiny", "main", "model.safetensors") == weights(kept_run, 29)

    commits, stored = server.commits_made, server.stored.copy()
    again = hub(server, *words)
    assert again.returncode == 0 and "main: there already" in again.stdout
    assert (server.commits_made, server.stored) == (commits, stored) and set(stored.values()) == {1}

    verified = hub(server, "verify", str(kept_run), "--repo", "user/tiny", "--steps", "0,8,29")
    assert verified.returncode == 0 and "4 of 4 revisions" in verified.stdout, verified.stdout + verified.stderr
    missing = hub(server, "verify", str(kept_run), "--repo", "user/tiny", "--steps", "1", "--quick")
    assert missing.returncode == 1 and "step1: there is no such revision" in missing.stdout

    pulled = hub(server, "pull", "user/tiny", "--output", str(tmp_path / "pulled"), "--steps", "0,8")
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "pulled" / "steps" / "step8" / "model.safetensors").read_bytes() == weights(kept_run, 8)
    assert all(damage is None for _, damage in verify(tmp_path / "pulled"))
    assert RunFolder.read(tmp_path / "pulled").splits == ["train", "id"]
    assert (tmp_path / "pulled" / "tokenizer" / "tokenizer.json").is_file()
    assert (
        "step8: here already"
        in hub(server, "pull", "user/tiny", "--output", str(tmp_path / "pulled"), "--steps", "8").stdout
    )


@pytest.mark.parametrize("kept", [6, pytest.param(30, marks=pytest.mark.slow)])  # the client waits out each fault
def test_a_push_that_is_dropped_and_killed_ends_whole_and_sends_nothing_twice(
    kept: int, kept_run: Path, server: HubServer, tmp_path: Path
) -> None:
    steps = ",".join(map(str, range(kept)))
    server.faults.drop = 0.2
    environment = {**os.environ, **server.environment, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "pipeline.hub", "push", str(kept_run), "--repo", "user/killed", "--quick"]
    command += ["--steps", steps]
    for revisions in (kept // 4 + 1, kept // 2 + 1):  # kills when so many steps are there
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        while len(server.repos["user/killed"].branches if server.repos else ()) < revisions and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, "the push ended before it was killed"
        process.kill()
        process.wait()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # What a user sees: a line for each revision, the first retry, and what it came to.
    *revisions, summary = done.stdout.splitlines()
    counted = [f"[{n}/{kept + 1}] {name}: " for n, name in enumerate([*(f"step{n}" for n in range(kept)), "main"], 1)]
    assert all(line.startswith(begin) for line, begin in zip(revisions, counted, strict=True))
    there = sum("there already" in line for line in revisions)
    again = re.fullmatch(
        rf"user/killed has it all: {kept + 1} revisions, {there} of them there already; sent .+ in \d+ s"
        r"(?:, (\d+) requests made again)?",
        summary,
    )
    # One of the branches at the second kill is main, and the last may have been empty.
    assert again and there >= kept // 2 - 1, summary
    assert done.stderr.count("trying again") == done.stderr.count("\n") == bool(again[1]), done.stderr
    repo = server.repos["user/killed"]
    assert repo.branches.keys() == {"main", *(f"step{step}" for step in range(kept))}
    for step in range(kept):
        assert server.content("user/killed", f"step{step}", "model.safetensors") == weights(kept_run, step)
    assert set(server.stored.values()) == {1}
    server.faults.drop = 0.0
    verified = hub(server, "verify", str(kept_run), "--repo", "user/killed", "--steps", steps)
    assert verified.returncode == 0 and f"{kept + 1} of {kept + 1} revisions" in verified.stdout, verified.stdout


def test_a_tampered_file_is_found(kept_run: Path, server: HubServer) -> None:
    assert hub(server, "push", str(kept_run), "--repo", "user/t", "--steps", "0,4").returncode == 0
    blob = server.repos["user/t"].tree("step4")["model.safetensors"]
    assert blob.lfs
    server.objects[blob.lfs] = server.objects[blob.lfs][:-1] + b"?"  # the Hub still lists the true sha256
    found = hub(server, "verify", str(kept_run), "--repo", "user/t", "--steps", "0,4")
    assert found.returncode == 1
    assert "step0: ok" in found.stdout and "main: ok" in found.stdout
    assert "step4: model.safetensors comes back corrupted: its sha256 is not that of the file here" in found.stdout
    pulled = hub(server, "pull", "user/t", "--output", str(kept_run.parent / "tampered"), "--steps", "4")
    assert pulled.returncode == 2 and "step4: model.safetensors has another sha256" in pulled.stderr
    assert not (kept_run.parent / "tampered" / "steps" / "step4").exists()


def test_a_corrupted_upload_ends_the_push(kept_run: Path, server: HubServer) -> None:
    server.faults.corrupt = 1
    result = hub(server, "push", str(kept_run), "--repo", "user/rot", "--steps", "0")
    assert result.returncode == 2
    assert result.stderr.startswith("user/rot, step0: model.safetensors comes back corrupted")
    assert server.repos["user/rot"].branches.keys() == {"main", "step0"}


def test_the_hub_s_refusals_are_one_line_and_hold_no_token(kept_run: Path, server: HubServer) -> None:
    server.faults.statuses = [429, 500, 500]
    passing = hub(server, "push", str(kept_run), "--repo", "user/slow", "--steps", "0")
    assert passing.returncode == 0, passing.stderr
    server.faults.statuses = [403] * 3
    refused = hub(server, "push", str(kept_run), "--repo", "user/forbidden", "--steps", "0")
    assert refused.returncode == 2
    assert refused.stderr == (
        "user/forbidden: the Hub forbids it (403); the token needs the right to write there, see hf auth login\n"
    )
    absent = hub(server, "pull", "user/absent", "--output", str(kept_run.parent / "absent"))
    assert (absent.returncode, absent.stderr) == (2, "user/absent: there is no such repository\n")
    assert TOKEN in server.tokens
    for text in (passing.stdout, passing.stderr, refused.stderr, absent.stderr):
        assert TOKEN not in text
    assert not any(TOKEN.encode() in path.read_bytes() for path in kept_run.rglob("*") if path.is_file())


def test_without_a_network_it_says_so(kept_run: Path, server: HubServer) -> None:
    offline = hub(server, "push", str(kept_run), "--repo", "user/x", HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stderr) == (
        2,
        "user/x: HF_HUB_OFFLINE is set, so the Hub is not asked; unset it\n",
    )
    assert not server.requests
    dead = hub(server, "push", str(kept_run), "--repo", "user/x", HF_ENDPOINT=CLOSED)
    assert dead.returncode == 2 and dead.stderr.startswith(f"user/x: the Hub cannot be reached ({CLOSED}: ")
    assert dead.stderr.count("\n") == 1 and not server.requests


def test_a_dry_run_says_what_would_be_sent_without_the_network(kept_run: Path) -> None:
    result = run_process(
        "-m", "pipeline.hub", "push", str(kept_run), "--repo", "user/x", "--dry-run", HF_HUB_OFFLINE="1"
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"^step29: \d+ files, ", result.stdout, re.MULTILINE)
    assert "31 revisions" in result.stdout


def test_damage_here_ends_a_push_before_it_begins(kept_run: Path, server: HubServer, tmp_path: Path) -> None:
    shutil.copytree(kept_run, tmp_path / "damaged")
    (tmp_path / "damaged" / "steps" / "step3" / "model.safetensors").write_bytes(weights(kept_run, 2))
    result = hub(server, "push", str(tmp_path / "damaged"), "--repo", "user/x")
    assert result.returncode == 2
    assert "step3: model.safetensors is corrupted" in result.stderr and "nothing was pushed" in result.stderr
    assert not server.repos


def test_another_run_s_revisions_are_not_overwritten(kept_run: Path, server: HubServer, tmp_path: Path) -> None:
    assert hub(server, "push", str(kept_run), "--repo", "user/x", "--steps", "8").returncode == 0
    assert run_here(write_recipe(tmp_path), "--seed", "1", "--callbacks.console.style", "off") == 0
    words = ("push", str(tmp_path / "run"), "--repo", "user/x", "--steps", "8")
    result = hub(server, *words)
    assert result.returncode == 2 and "main holds another run: its step 0 has other weights" in result.stderr
    repo = server.repos["user/x"]
    repo.branches["main"] = next(iter(repo.commits))  # as where the push did not come to its end
    result = hub(server, *words)
    assert result.returncode == 2 and "step8 holds other weights, so those of another run" in result.stderr
    assert server.content("user/x", "step8", "model.safetensors") == weights(kept_run, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("push", "{run}", "--repo", "tiny"), "repository 'tiny': write it as user/name\n"),
        (("push", "{run}", "--repo", "user/a b"), "repository 'user/a b': "),
        (("push", "{run}", "--repo", "u/x", "--steps", "7,x"), "--steps: '7,x' is not all, last, log, or numbers"),
        (("push", "{run}", "--repo", "u/x", "--steps", "77"), "steps: step 77 was not kept; kept are 0, 1"),
        (("push", "{run}/steps", "--repo", "u/x"), "is not the folder of a run: it has no recipe.yaml"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], message: str, kept_run: Path, server: HubServer) -> None:
    result = hub(server, *(word.format(run=kept_run) for word in words))
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
