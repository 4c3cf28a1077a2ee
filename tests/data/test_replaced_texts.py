"""A run goes on with the text it was begun with, or not at all."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from pipeline.data import sources
from pipeline.data.text import Texts
from pipeline.utils.files import sha256
from tests.bases import make_texts, recipe_of, sentences
from tests.tiny import run_here, tree, write_recipe


@pytest.fixture
def recipe(bases: Path, tmp_path: Path) -> Path:
    """One that replays a text and watches the perplexity of another, each a file of this test's own."""
    make_texts(tmp_path)
    replay = f"\nreplay: {{source: {tmp_path / 'replay.txt'}, ratio: 0.5, by: rows, length: 32}}\n"
    text = recipe_of(bases, "gpt_neox", more=replay)
    return write_recipe(tmp_path, text.replace(str(bases / "held_out.txt"), str(tmp_path / "held_out.txt")))


def refuse(path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Checks that the run is refused in a line, and that nothing in its folder changes."""
    run = path.parent / "run"
    before = tree(run)
    capsys.readouterr()
    assert run_here(path, "--max_steps", "4") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"{key}.source: {run} was begun with a text of sha256 " in told, told
    assert tree(run) == before


@pytest.mark.parametrize(("name", "key"), [("replay", "replay"), ("held_out", "callbacks.base_perplexity")])
def test_a_text_that_was_replaced_is_refused(
    name: str, key: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(recipe, "--max_steps", "2") == 0
    text = tmp_path / f"{name}.txt"
    first = text.read_bytes()
    text.write_text(sentences(400, seed=9) + "\n")
    refuse(recipe, key, capsys)
    text.unlink()
    assert run_here(recipe, "--max_steps", "4") == 2
    assert capsys.readouterr().err.count("\n") == 1
    text.write_bytes(first)
    assert run_here(recipe, "--max_steps", "4") == 0
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [sorted(start["texts"]) for start in starts] == [["callbacks.base_perplexity", "replay"]] * 2


def test_another_text_to_watch_may_be_named_and_earlier_runs_go_on(recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(sentences(60, seed=5) + "\n")
    assert run_here(recipe, "--max_steps", "2") == 0
    assert run_here(recipe, "--max_steps", "3", "--callbacks.base_perplexity.source", str(other)) == 0
    # Earlier code did not write which texts it read.
    path = tmp_path / "run" / "environment.json"
    starts = json.loads(path.read_text())
    path.write_text(json.dumps([{key: value for key, value in start.items() if key != "texts"} for start in starts]))
    (tmp_path / "replay.txt").write_text(sentences(400, seed=9) + "\n")
    assert run_here(recipe, "--max_steps", "4") == 0


def hashed(path: Path, config: str | None = None, split: str = "train") -> str | None:
    return Texts(str(path), config, split).identity({})["sha256"]


def as_files(folder: Path, word: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "train.txt").write_text(word)
    (folder / "test.txt").write_text("held out")
    (folder / ".hidden.txt").write_text(word * 2)


def as_gzip(folder: Path, word: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "a.TXT").write_text("first")
    (folder / "b.txt.gz").write_bytes(gzip.compress(word.encode(), mtime=0))


def as_saved(folder: Path, word: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    datasets.Dataset.from_dict({"text": [word]}).save_to_disk(folder)


def as_splits(folder: Path, word: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    parts = {"train": [word], "test": ["held out"]}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": part}) for name, part in parts.items()}
    ).save_to_disk(folder)


def with_card(folder: Path, word: str) -> None:
    (folder / "x").mkdir(parents=True, exist_ok=True)
    card = "---\nconfigs:\n- config_name: one\n  data_files:\n  - {split: train, path: x/a.txt}\n"
    (folder / "README.md").write_text(f"{card}  - {{split: test, path: x/b.txt}}\n---\n")
    (folder / "x" / "a.txt").write_text(word)
    (folder / "x" / "b.txt").write_text("held out")


@pytest.mark.parametrize("write", [as_files, as_gzip, as_saved, as_splits, with_card])
def test_what_is_read_is_what_is_hashed(write: Callable[[Path, str], None], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    found = []
    for word in ("one", "two", "one"):
        write(folder, word)
        found.append(hashed(folder))
    assert found[0] == found[2] != found[1] and None not in found
    if write in (as_files, as_splits, with_card):
        held_out = hashed(folder, split="test")
        write(folder, "two")
        assert hashed(folder, split="test") == held_out not in found


def test_a_file_is_hashed_once_and_a_dataset_elsewhere_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, known, read = tmp_path / "a.txt", dict[Path, str](), list[Path]()
    path.write_text("text")
    monkeypatch.setattr(sources, "sha256", lambda file: read.append(file) or sha256(file))
    assert Texts(str(path)).identity(known) == Texts(str(path)).identity(known)
    assert read == [path] and known == {path: sha256(path)}
    assert hashed(tmp_path / "nowhere") is None
