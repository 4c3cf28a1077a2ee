"""Repositories and folders that others wrote: what they hold is not emptied, not followed, and not believed."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora.export import write_parquet
from pipeline.corpora.group import Group
from pipeline.corpora.store import build
from pipeline.runs.folder import RunFolder
from pipeline.runs.manifest import Manifest
from pipeline.runs.verify import verify
from tests.hub_server import Answer, Hub, HubServer, weights
from tests.hub_store import Blob, Repo


@pytest.fixture
def run(kept_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(kept_run, tmp_path / "run"))


def put(server: HubServer, repo: str, revision: str, **files: bytes) -> None:
    """Someone else's commit: files as they are, None deletes one; `__` in a name is a slash, `_` before a dot a dot."""
    at = server.repos[repo]
    tree = {**at.tree(revision), **{name: Blob(content, size=len(content)) for name, content in files.items()}}
    at.commit(revision, tree)


def test_what_others_have_put_on_main_stays_unless_its_repository_is_named(
    run: Path, server: HubServer, hub: Hub
) -> None:
    for kind, what in (
        ("model", {"README.md": b"# Mine", "pytorch_model.bin": b"weights"}),
        ("dataset", {"a.csv": b"1"}),
    ):
        name = f"user/{kind}"
        server.repos[name] = Repo(kind, private=False)
        server.repos[name].commit("main", {".gitattributes": Blob(b"", size=0)})
        put(server, name, "main", **what)
        before = server.files(name)
        words = ["--repo", name] if kind == "model" else ["--repo", "user/new", "--corpus", name]
        refused = hub("push", run, *words, "--steps", "8")
        assert refused.status == 2 and refused.err.count("\n") == 1, refused
        first = sorted(what)[0]
        assert refused.err.startswith(f"{name}: main holds {first}") and f"--replace {name} to have" in refused.err
        assert server.files(name) == before and "step8" not in server.repos[name].branches
        wrong = hub("push", run, *words, "--steps", "8", "--replace", "user/other")
        assert wrong.status == 2 and "--replace user/other: this push does not go there" in wrong.err
        assert server.files(name) == before
        assert hub("push", run, *words, "--steps", "8", "--replace", name).status == 0
        assert not server.files(name).keys() & (what.keys() - {"README.md"})


def test_a_run_that_was_pushed_is_pushed_again_and_an_added_file_stays(run: Path, server: HubServer, hub: Hub) -> None:
    words = ("push", run, "--repo", "user/x", "--steps", "0,8", "--corpus", "user/data")
    assert hub(*words).status == 0
    assert hub("verify", run, "--repo", "user/x", "--steps", "0,8").status == 0
    assert hub(*words).status == 0
    for repo, revision in (("user/x", "main"), ("user/x", "step8"), ("user/data", "main")):
        put(server, repo, revision, **{"notes.md": b"of a reader"})
        again = hub(*words)
        assert again.status == 2 and f"{repo}: {revision} holds notes.md, which no push from here" in again.err, again
        assert server.content(repo, revision, "notes.md") == b"of a reader"
        at = server.repos[repo]
        at.commit(revision, {name: blob for name, blob in at.tree(revision).items() if name != "notes.md"})
    # Pushed with more steps it is the same run, and figures that were drawn no more go.
    put(server, "user/x", "main", **{"figures/old.png": b"drawn before"})
    assert hub("push", run, "--repo", "user/x", "--steps", "0,8,16").status == 0
    assert "figures/old.png" not in server.files("user/x")


@pytest.mark.parametrize(
    ("revision", "name"),
    [("step8", "evil.py"), ("main", "figures/evil.html"), ("main", "README.md.exe"), ("main", "figures/evil.png")],
)
def test_verify_finds_added_files(run: Path, server: HubServer, hub: Hub, revision: str, name: str) -> None:
    assert hub("push", run, "--repo", "user/x", "--steps", "0,8").status == 0
    put(server, "user/x", revision, **{name: b"added"})
    server.repos["user/x"].branches["other"] = server.repos["user/x"].branches["main"]
    found = hub("verify", run, "--repo", "user/x", "--steps", "0,8", "--quick")
    assert found.status == 1 and f"{revision}: {name} does not belong to it\n" in found.out, found
    assert "other: is no revision of a run\n" in found.out


def test_a_push_that_did_not_come_to_its_end_is_pulled(run: Path, server: HubServer, hub: Hub, tmp_path: Path) -> None:
    assert hub("push", run, "--repo", "user/x", "--steps", "0,8,16").status == 0
    # main lists all 30 kept steps; three of them were pushed, and it holds the weights of the last itself.
    pulled = hub("pull", "user/x", "--output", tmp_path / "whole")
    assert pulled.status == 0, pulled
    assert sorted(Manifest.load(tmp_path / "whole").kept) == [0, 8, 16, 29]
    assert "not fetched: step1, step2, " in pulled.out
    absent = hub("pull", "user/x", "--output", tmp_path / "whole", "--steps", "0,9")
    assert (absent.status, absent.err) == (2, "user/x: step9 was not pushed; there are step0, step8, step16\n")
    repo = server.repos["user/x"]
    repo.branches["main"] = repo.branches["step24"] = next(iter(repo.commits))  # one is empty, and main is
    part = tmp_path / "part"
    assert hub("pull", "user/x", "--output", part).status == 0
    assert sorted(Manifest.load(part).kept) == [0, 8, 16] and Manifest.load(part).finished is None
    assert all(damage is None for path, damage in verify(part) if "step" in path and (part / path).exists())
    assert (part / "steps" / "step8" / "model.safetensors").read_bytes() == weights(run, 8)
    assert RunFolder.read(part).splits == ["train", "id"]
    assert {path.name for path in (part / "steps" / "step8").rglob("*")} == {
        path.name for path in (run / "steps" / "step8").rglob("*")
    }
    empty = hub("pull", "user/x", "--output", tmp_path / "other", "--steps", "24")
    assert empty.status == 2 and empty.err.count("\n") == 1


def _files(entry: dict[str, Any]) -> dict[str, Any]:
    return entry["kept"]["8"]["files"]


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a name that leads out": lambda m: _files(m).update({"../../evil": {"sha256": "0" * 64, "bytes": 1}}),
    "an absolute name": lambda m: _files(m).update({"/tmp/evil": {"sha256": "0" * 64, "bytes": 1}}),
    "a name of another system": lambda m: _files(m).update({"..\\evil": {"sha256": "0" * 64, "bytes": 1}}),
    "an empty name": lambda m: _files(m).update({"": {"sha256": "0" * 64, "bytes": 1}}),
    "a name with control characters": lambda m: _files(m).update({"\x1b[2J": {"sha256": "0" * 64, "bytes": 1}}),
    "a name that is too long": lambda m: _files(m).update({"x" * 5000: {"sha256": "0" * 64, "bytes": 1}}),
    "a size that nobody has": lambda m: _files(m)["model.safetensors"].update(bytes=10**30),
    "a size below nothing": lambda m: _files(m)["model.safetensors"].update(bytes=-1),
    "a size that is not the file's": lambda m: _files(m)["model.safetensors"].update(bytes=10**12),
    "a size in words": lambda m: _files(m)["model.safetensors"].update(bytes="many"),
    "no sha256": lambda m: _files(m)["model.safetensors"].pop("sha256"),
    "facts that are a list": lambda m: _files(m).update({"config.json": [1]}),
    "files that are a list": lambda m: m["kept"]["8"].update(files=["config.json"]),
    "metrics in words": lambda m: m["kept"]["8"].update(metrics={"eval_id_exact_match": "<script>"}),
    "an entry that is a number": lambda m: m["kept"].update({"8": 8}),
    "another place": lambda m: m["kept"]["8"].update(path="../../.ssh"),
    "a step that is no number": lambda m: m["kept"].update({"../8": m["kept"]["8"]}),
    "a step in other digits": lambda m: m["kept"].update({"８": m["kept"]["8"]}),
    "kept steps as a list": lambda m: m.update(kept=[1, 2]),
    "an outcome in words": lambda m: m.update(finished="yes"),
    "a field of a later version": lambda m: m.update(tiers=3),
    "no steps": lambda m: m.update(kept={}, pruned={}),
}


def test_hostile_manifests_are_one_line_each(run: Path, server: HubServer, hub: Hub, tmp_path: Path) -> None:
    assert hub("push", run, "--repo", "user/x", "--steps", "0,8").status == 0
    told = json.loads(server.content("user/x", "main", "manifest.json"))
    texts = {why: json.loads(json.dumps(told)) for why in HOSTILE}
    for why, change in HOSTILE.items():
        change(texts[why])
    contents = {why: json.dumps(facts).encode() for why, facts in texts.items()}
    contents |= {"no JSON": b"{", "a list": b"[]", "a deep list": b"[" * 100_000, "not UTF-8": b"\xff\xfe{}"}
    for why, content in contents.items():
        put(server, "user/x", "main", **{"manifest.json": content})
        place = tmp_path / "in" / "pulled"
        result = hub("pull", "user/x", "--output", place)
        assert result.status == 2 and result.err.count("\n") == 1 and len(result.err) < 500, (why, result)
        assert result.err.startswith(("user/x", "--steps")) and "\x1b" not in result.err, (why, result.err)
        assert not (tmp_path / "evil").exists() and not (place / "steps").exists(), why
        # A push does not believe it either.
        pushed = hub("push", run, "--repo", "user/x", "--steps", "0")
        assert pushed.status == 2 or why.startswith(("a size", "metrics", "no sha", "facts")), (why, pushed)


def test_a_pull_follows_no_link_and_waits_for_no_one(run: Path, server: HubServer, hub: Hub, tmp_path: Path) -> None:
    assert hub("push", run, "--repo", "user/x", "--steps", "0,8").status == 0
    place, outside = tmp_path / "pulled", tmp_path / "outside"
    outside.mkdir()
    for name in ("steps", "tokenizer", "recipe.yaml", "manifest.json"):
        place.mkdir()
        (place / ".pulled-from").write_text("user/x\n")
        (place / name).symlink_to(outside)
        result = hub("pull", "user/x", "--output", place)
        assert result.status == 2 and f"{place / name} is a link" in result.err and not list(outside.iterdir())
        shutil.rmtree(place)
    # Two at once: one of them fetches it, the other says who does.
    answers: list[Answer] = []
    from pipeline.runs.lock import RunLock

    with RunLock(place):
        answers.append(hub("pull", "user/x", "--output", place))
    assert answers[0].status == 2 and f"{place} is in use by pid {os.getpid()}" in answers[0].err
    assert hub("pull", "user/x", "--output", place).status == 0


def test_two_pushes_at_once_end_as_one(run: Path, server: HubServer, hub: Hub) -> None:
    from pipeline.hub.push import push

    def once() -> None:
        for _ in push(run, "user/x", steps="0,4,8"):
            pass

    threads = [threading.Thread(target=once) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub("verify", run, "--repo", "user/x", "--steps", "0,4,8").status == 0
    assert server.commits_made == 4  # no revision was written twice


@pytest.mark.parametrize(
    "name", ["tokenizer/secret", "figures/secret.png", "metrics.jsonl", "tokenizer", "corpus/corpus.json"]
)
def test_no_link_goes_into_a_bundle(name: str, run: Path, server: HubServer, hub: Hub, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    if (run / name).is_dir() or (run / name).exists():
        shutil.move(run / name, secret)
    else:
        secret.write_text("a password")
    (run / name).symlink_to(secret)
    result = hub("push", run, "--repo", "user/x", "--steps", "0")
    assert result.status == 2 and result.err.startswith(f"{run / name}: is a link") and result.err.count("\n") == 1
    assert not server.repos


def test_no_link_goes_into_a_dataset(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    write_parquet(build(Group(group="Z5")), tmp_path / "data")
    (tmp_path / "secret").write_text("a password")
    (tmp_path / "data" / "more.txt").symlink_to(tmp_path / "secret")
    result = hub("push", tmp_path / "data", "--repo", "user/x")
    assert result.status == 2 and "more.txt: is a link" in result.err and not server.repos
