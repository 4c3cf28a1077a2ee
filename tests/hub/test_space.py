"""A run as a static Space: what it shows, in a folder behind a server of files and on the Hub of the tests."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import runpy
import threading
import urllib.request
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.hub import live_app
from pipeline.hub.__main__ import main
from tests.hub_server import Hub, HubServer
from tests.hub_server import hub as run_hub
from tests.hub_store import Blob, Repo


@pytest.fixture(scope="module")
def space(kept_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "demo"
    words = ["space", str(kept_run), "--output", str(folder), "--prompts", "3", "--steps", "0,16,29"]
    assert main(words) == 0
    return folder


@pytest.fixture
def page(space: Path) -> Iterator[str]:
    """The page as a browser gets it from a server of the folder."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(space))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/") as answer:
            yield answer.read().decode()
        server.shutdown()


def answers_of(page: str) -> dict[str, Any]:
    found = re.search(r'<figure class="answers">.*?<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_answers_are_those_of_the_kept_steps(page: str, kept_run: Path) -> None:
    found = answers_of(page)
    assert found["steps"] == [0, 16, 29]
    prompts = re.findall(r'<tr><th scope="row"><code>([^<]+)</code></th><td>([^<]+)</td><td>([^<]+)</td>', page)
    assert len(prompts) == 6 and [standing for _, standing, _ in prompts] == ["trained"] * 3 + ["held out, in id"] * 3
    tokenizer = AutoTokenizer.from_pretrained(kept_run / "tokenizer")
    for step, row in zip(found["steps"], found["answers"], strict=True):
        model = AutoModelForCausalLM.from_pretrained(kept_run / "steps" / f"step{step}")
        for (prompt, _, right), (answer, p, is_right) in zip(prompts, row, strict=True):
            a, b = map(int, prompt.removesuffix(" =").split())
            assert int(right) == (a + b) % 11
            with torch.no_grad():
                best = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].softmax(-1)
            assert p == pytest.approx(float(best.max()), abs=1e-4)
            assert answer == tokenizer.decode(int(best.argmax())) and is_right == int(answer == right)


def test_the_page_is_the_report_too_and_names_nothing_of_this_machine(page: str, space: Path, kept_run: Path) -> None:
    assert "To repeat it" in page and "exact match" in page
    assert not re.search(r"<(link|img|iframe|object)\b|\ssrc=|@import", page)
    for secret in (str(kept_run), str(kept_run.parent), os.uname().nodename):
        assert secret not in page
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "static" and (space / front["app_file"]).is_file()
    assert {path.name for path in space.iterdir()} == {"README.md", "index.html"}


def test_it_is_sent_once_and_puts_nothing_over_what_others_made(
    space: Path, kept_run: Path, server: HubServer, tmp_path: Path
) -> None:
    words = ("space", str(kept_run), "--repo", "user/demo", "--prompts", "3", "--steps", "0,16,29")
    first, again = run_hub(server, *words), run_hub(server, *words)
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert first.stdout == "user/demo: sent; it is shown at https://huggingface.co/spaces/user/demo\n"
    assert again.stdout.startswith("user/demo: there already") and server.commits_made == 1
    assert server.repos["user/demo"].kind == "space"
    assert server.files("user/demo")["index.html"] == (space / "index.html").read_bytes()
    repo = server.repos["user/theirs"] = Repo("space", False)
    repo.commit("main", {".gitattributes": Blob(b"")})
    repo.commit("main", {"index.html": Blob(b"theirs", size=6), "README.md": Blob(b"my page", size=7)})
    refused = run_hub(server, "space", str(kept_run), "--repo", "user/theirs", "--prompts", "1", "--steps", "0")
    assert refused.returncode == 2 and "which no push from here has put there" in refused.stderr
    assert server.content("user/theirs", "main", "index.html") == b"theirs"


@pytest.fixture(scope="module")
def live(kept_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Space that answers with steps of user/tiny."""
    folder = tmp_path_factory.mktemp("live") / "app"
    words = [
        "space",
        str(kept_run),
        "--live",
        "user/tiny",
        "--output",
        str(folder),
        "--prompts",
        "1",
        "--steps",
        "0,16",
    ]
    assert main(words) == 0
    return folder


def test_the_live_app_answers_by_the_steps_of_the_repository(
    live: Path, kept_run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {path.name for path in live.iterdir()} == {"README.md", "app.py", "live.json", "requirements.txt"}
    front = yaml.safe_load((live / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py"
    tree = ast.parse((live / "app.py").read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(module.startswith("pipeline") for module in imported)
    assert hub("push", kept_run, "--repo", "user/tiny", "--steps", "0,16", "--quick").status == 0
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    app = runpy.run_path(str(live / "app.py"))
    about = app["settings"](live)
    assert about["steps"] == [0, 16] and len(about["examples"]) == 2 and about["model"] == "user/tiny"
    tokenizer = AutoTokenizer.from_pretrained(kept_run / "tokenizer")
    for step in about["steps"]:
        model = AutoModelForCausalLM.from_pretrained(kept_run / "steps" / f"step{step}")
        with torch.no_grad():
            p = model(**tokenizer("3 4 =", return_tensors="pt")).logits[0, -1].softmax(-1)
        values, tokens = p.topk(5)
        wanted = {tokenizer.decode(int(token)): float(value) for token, value in zip(tokens, values)}
        assert app["answers"]("3 4 =", step, about) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match=r"^'12' is no word of the model; nearest: "):
        app["answers"]("12 4 =", 0, about)
    with pytest.raises(ValueError, match="write a prompt"):
        app["answers"]("", 0, about)


def test_answers_of_several_tokens_are_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says b after a, and then the end."""
    from types import SimpleNamespace

    words = ["a", "b", "c", "</a>", "<pad>"]

    def model(ids: torch.Tensor) -> Any:
        following = torch.tensor(
            [[0.0, 5, 1, 0, 0], [0, 0, 0, 9, 0], [0, 0, 0, 9, 0], [9, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
        )
        return SimpleNamespace(logits=following[ids])

    class Tokenizer:
        unk_token_id = 4

        def __call__(self, text: str) -> Any:
            return {"input_ids": [words.index(word) if word in words else 4 for word in text.split()]}

        def get_vocab(self) -> dict[str, int]:
            return {word: i for i, word in enumerate(words)}

        def decode(self, tokens: list[int]) -> str:
            return " ".join(words[token] for token in tokens)

    monkeypatch.setattr(live_app, "load", lambda *names: (model, Tokenizer()))
    about = {"model": "x", "trust_remote_code": False, "length": 3, "ends": ["</a>", "<eos>"]}
    found = live_app.answers("a", 0, about, most=2)
    first, end = torch.tensor([0.0, 5, 1, 0, 0]).softmax(-1), torch.tensor([0.0, 0, 0, 9, 0]).softmax(-1)[3]
    assert found == pytest.approx({"b": float(first[1] * end), "c": float(first[2] * end)})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "space: name --repo USER/NAME, or --output DIR for a folder"),
        (["--repo", "user/x", "--output", "x"], "space: name --repo USER/NAME, or --output DIR for a folder"),
        (["--output", "taken"], "--output taken: holds something else; name a new folder"),
        (["--output", "x", "--prompts", "0"], "--prompts 0 is not a whole number >= 1"),
        (["--output", "x", "--steps", "1,99"], "99"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, kept_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    assert main(["space", str(kept_run), *words, *(() if "--steps" in words else ("--steps", "0"))]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
