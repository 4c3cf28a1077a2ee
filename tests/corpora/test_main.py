"""The command line of the corpora: list, preview, help, export, and one line for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from pipeline.config.fields import parameters_of
from pipeline.config.registry import names
from pipeline.corpora.__main__ import main
from pipeline.corpora.comparison import Comparison
from pipeline.corpora.composition import Composition
from pipeline.corpora.published import FILES, Published
from pipeline.corpora.store import build
from tests.corpora.facts import facts
from tests.tiny import ROOT

SMALL = {"num_entities": 40, "num_relations": 8, "out_degree": 4, "ratio": 2.0, "ood_fraction": 0.2, "seed": 3}
WORDS = ["composition", *(f"--{key}={value}" for key, value in SMALL.items())]


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_corpora_are_listed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in names("corpora"):
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert len(line.split()) > 5


def test_preview_shows_parameters_sizes_hash_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(WORDS) == 0
    shown = capsys.readouterr().out
    stored = build(Composition(**SMALL))
    rows = [line.split() for line in shown.splitlines()]
    assert ["ratio", "2.0", "phi:"] in [row[:3] for row in rows]
    for split, size in stored.sizes.items():
        assert [split, f"{size:,}", *stored.role(split).split()] in rows
        below = rows[rows.index([split]) + 1 :]
        fact = facts(stored, split)[0]
        assert below[0] == [fact.type, "".join(fact.prompt), "".join(fact.answer)]
    assert stored.content_hash in shown and "54 tokens" in shown and str(stored.folder) in shown


def test_help_shows_every_parameter_with_its_bounds_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["comparison", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in parameters_of(Comparison):
        assert f"{field.name}: {field.default}" in shown and field.metadata["help"] in shown
    assert "a number > 0 and < 1" in shown


def test_exported_parquet_loads_with_its_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "folder"
    assert main([*WORDS, "--export", str(folder)]) == 0
    assert f"written to {folder}" in capsys.readouterr().out.replace("\n", "")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    stored = build(Composition(**SMALL))
    assert {split: len(rows) for split, rows in loaded.items()} == stored.sizes
    for split in stored.sizes:
        expected = [("".join(f.prompt), "".join(f.answer), f.type, f.notes["bridge"]) for f in facts(stored, split)]
        columns = loaded[split].to_dict()
        assert list(zip(*(columns[name] for name in ("prompt", "answer", "type", "bridge")))) == expected


def test_exported_files_of_the_authors_read_back(tmp_path: Path) -> None:
    assert main([*WORDS, "--export", str(tmp_path), "--format", "published"]) == 0
    assert sorted(os.listdir(tmp_path)) == sorted(FILES)
    assert build(Published(path=str(tmp_path))).sizes == build(Composition(**SMALL)).sizes


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("kept")
    for target in (tmp_path, tmp_path / "mine"):
        assert main([*WORDS, "--export", str(target)]) == 2
        assert "is there and not an empty folder; name a new one" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["mine"] and (tmp_path / "mine").read_text() == "kept"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["compositoin"], "corpus: there is no corpus 'compositoin'; did you mean composition?"),
        (["--ratio", "3"], "corpus: there is no corpus '--ratio'"),
        (["../run"], "corpus: there is no corpus '../run'"),
        (["composition", "--ratoi", "3"], "ratoi: composition has no such key; did you mean ratio?"),
        (["composition", "--ratio", "many"], "ratio: 'many' is not"),
        (["composition", "--ratio", "-1"], "ratio: -1 is not"),
        (["composition", "--ratio", "nan"], "ratio: 'nan' is not"),
        (["composition", "--num_entities", "2.5"], "num_entities: 2.5 is not"),
        ([*WORDS, "--ratio", "99"], "ratio: 99 asks for "),
        (["composition", "--out_degree", "300"], "out_degree: 300 is more than num_relations, 200"),
        (["group", "--group", "S5"], "operation: '+' is not one on S5; allowed: *, aba, aba^-1"),
        (["group", "Z97"], "Z97: is not an override"),
        (["group", "--format", "parquet"], "format: says how to export; add --export FOLDER"),
        (["group", "--export", "/dev/null/x"], "export: /dev/null/x cannot be written: Not a directory"),
        (["group", "--format", "csv", "--export", "x"], "format: 'csv' is"),
        (["published"], "path: '' holds no train.json"),
        (["group", "--export", "new", "--format", "published"], "format: published: tokens of group are not"),
    ],
)
def test_mistakes_are_named_in_one_line(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("command line: " + message) and error.count("\n") == 1
    assert not os.listdir(tmp_path)


def test_module_can_be_started() -> None:
    command = [sys.executable, "-m", "pipeline.corpora", "group", "--group", "Z5"]
    started = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "train" in started.stdout and not started.stderr
    failed = subprocess.run([*command, "--group", "Q5"], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.startswith("command line: group: 'Q5' is not one of Z, C, D, S, A")
    assert not failed.stdout


def test_card_and_description_of_an_export(tmp_path: Path) -> None:
    assert main([*WORDS, "--export", str(tmp_path)]) == 0
    stored = build(Composition(**SMALL))
    assert json.loads((tmp_path / "corpus.json").read_text()) == json.loads(json.dumps(stored.describe()))
    assert json.loads((tmp_path / "vocabulary.json").read_text()) == stored.tokens
    card = (tmp_path / "README.md").read_text()
    assert stored.content_hash in card and "| ood | held out | " in card and "- `ratio`: 2.0" in card
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["README.md", "corpus.json", "vocabulary.json", *(f"{split}.parquet" for split in stored.sizes)]
    )
