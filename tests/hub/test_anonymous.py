"""What is pushed names no path, home, host or user of the machine that it was made on."""

from __future__ import annotations

import getpass
import json
import platform
import re
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.hub import anonymous
from pipeline.hub.anonymous import Anonymous
from pipeline.runs.verify import verify
from tests.config.test_remote_code import sealed
from tests.hub_server import Hub, HubServer

NAMES = ("/home/alice", "alice", "node17", "/scratch", "/mnt/data")


def test_what_is_pushed_names_no_path_home_host_or_user(
    kept_run: Path, server: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(kept_run, tmp_path / "run"))
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    monkeypatch.setattr(platform, "node", lambda: "node17.cluster.org")
    start = json.loads((run / "environment.json").read_text())[-1]
    start |= {"host": "node17", "started_by": {"user": "alice", "shell": "alice@node17.cluster.org:/home/alice"}}
    start["command"] = ["python", "/home/alice/groklab/pipeline/run.py", "--output_dir=/scratch/alice/run"]
    start["command"] += [
        "--replay.source",
        "~/texts/a.txt",
        f"--x=[{run}/a, /mnt/data/alice/b]",
        "--name",
        "alice/model",
    ]
    (run / "environment.json").write_text(json.dumps([start]))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe |= {"logging_dir": "/scratch/alice/logs", "deepspeed": "/home/alice/zero.json", "run_name": "tiny"}
    recipe["callbacks"]["base_perplexity"] = {"source": "/mnt/data/alice/held_out.txt", "length": 8}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    # A configuration in a kept step, as adapters have it, and the manifest that fits.
    for step in (0, 8):
        (run / "steps" / f"step{step}" / "adapter_config.json").write_text(
            '{"base_model_name_or_path": "/home/alice/b"}'
        )
    sealed(run)
    index = json.loads((run / "corpus" / "corpus.json").read_text())
    index["parameters"]["path"] = "/mnt/data/alice/corpus"
    (run / "corpus" / "corpus.json").write_text(json.dumps(index))
    (run / "corpus" / "README.md").write_text("---\ntags: [grokking]\n---\n- `path`: /mnt/data/alice/corpus\n")
    words = ("--repo", "user/x", "--steps", "0,8")
    assert hub("push", run, *words, "--corpus", "user/data").status == 0
    for repo in server.repos:
        for revision in server.repos[repo].branches:
            for path, content in server.files(repo, revision).items():
                text = content.decode(errors="replace").replace("alice/model", "")  # a name on the Hub
                assert not any(name in text for name in (*NAMES, str(run), str(tmp_path), str(Path.home()) + "/")), (
                    revision,
                    path,
                    text[:500],
                )
    told = json.loads(server.content("user/x", "main", "environment.json"))[0]
    assert "host" not in told and told["device"] == start["device"]
    assert told["command"][1:3] == ["run.py", "--output_dir=run"]
    assert yaml.safe_load(server.content("user/x", "main", "recipe.yaml"))["deepspeed"] == "zero.json"
    # What is sent is what its manifest says, and comes back whole.
    assert hub("verify", run, *words).status == 0
    assert hub("pull", "user/x", "--output", tmp_path / "pulled", "--steps", "0,8").status == 0
    pulled = tmp_path / "pulled"
    assert all(damage is None for _, damage in verify(pulled))
    assert json.loads((pulled / "steps" / "step8" / "adapter_config.json").read_text()) == {
        "base_model_name_or_path": "b"
    }


@pytest.mark.parametrize(
    "text",
    ["recipes/quickstart.yaml", "a/b", "/", "x /b", "a / b", "user/model", "--repo=alice/model", "1/2/3", "<a>/</a>",
     "https://huggingface.co/a/b", "Linux-6.1-x86_64-with-glibc2.36", "the {p1} of {p0} is {answer}", "bf16 and/or x"],
)  # fmt: skip
def test_what_is_no_path_stays(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(anonymous, "_user", lambda: "alice")
    assert Anonymous(tmp_path, ["node17"]).text(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("~/data/texts", "texts"),
        ("file:///home/alice/x.txt", "x.txt"),
        ("C:\\Users\\alice\\x.yaml", "x.yaml"),
        ("/data dir/with space/x.txt", "x.txt"),
        ("[/home/alice/a.txt, /home/alice/b.txt]", "[a.txt, b.txt]"),
        ("runs/alice/x", "runs/user/x"),
        ("alice@node17:/home/alice/x", "user@host:x"),
        ("a:/usr/bin:/home/alice/bin", "a:bin:bin"),
    ],
)
def test_paths_are_cut_down_to_their_last_name(
    text: str, left: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(anonymous, "_user", lambda: "alice")
    assert Anonymous(tmp_path, ["node17"]).text(text) == left


def test_the_pushed_recipe_is_the_resolved_one(kept_run: Path, server: HubServer, hub: Hub) -> None:
    assert hub("push", kept_run, "--repo", "user/x", "--steps", "0").status == 0
    here = (kept_run / "recipe.yaml").read_text()
    there = server.content("user/x", "main", "recipe.yaml").decode()
    assert there == re.sub(r"(?m)^output_dir: .*$", f"output_dir: runs/{kept_run.name}", here)
