"""The page about a user's own facts: its commands are run as they stand there, on a file of 200 lines."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipeline.config.recipe import read_recipe
from pipeline.corpora.store import build
from pipeline.data.templates import render
from pipeline.runs.folder import RunFolder
from tests import forked
from tests.bases import make_base
from tests.test_readme import blocks
from tests.tiny import ROOT

PAGE = (ROOT / "docs" / "own-facts.md").read_text()
QUESTIONS = 2  # which of the blocks of text shows a file of questions
SHORT = ["--max_steps", "3", "--eval_steps", "3", "--model.n_layer", "1", "--save_strategy", "no"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user has recipes and a table of their own."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    with open(ROOT / "recipes" / "own_facts.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    with open(tmp_path / "facts.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row[::-1] for row in rows])
    sums = [(a, b) for a in range(2, 34) for b in range(2, 14)]
    rows = [f"How much is {a} x {b}?,{a * b},{min(a // 6, 2)}" for a, b in sums]
    assert set(blocks("text", PAGE)[QUESTIONS].splitlines()) <= {"question,answer,level", *rows}
    (tmp_path / "questions.csv").write_text("\n".join(["question,answer,level", *rows]))
    (tmp_path / "questions.yaml").write_text(blocks("yaml", PAGE)[0])
    (tmp_path / "wrong.csv").write_text("head,relation,tail\nFrance,capital,Paris\nFrance,capital,Lyon\n")
    return tmp_path


def run(folder: Path, words: list[str], status: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = forked.run(*words, cwd=folder, env=environment, timeout=900)
    assert found.returncode == status, f"{words}\n{found.stdout}\n{found.stderr}"
    return found.stdout + found.stderr


def test_the_way_from_a_table_to_a_report_can_be_gone(folder: Path) -> None:
    lines = [line.split() for block in blocks("bash", PAGE) for line in block.splitlines()]
    assert lines[0][2] == "pipeline.run" and all(line[0] == "python" for line in lines)
    for line in lines:
        said = run(folder, [*line[1:], *(SHORT if line[2] == "pipeline.run" else [])])
        if line[2:4] == ["pipeline.corpora", "reasoning_gym"]:
            assert "level_2" in said and "How much is 2 x" in said
        elif line[2] == "pipeline.corpora":
            assert "<France><capital><river>" in said or "<Paris><river>" in said
        elif line[2] == "pipeline.evaluate":
            assert "id" in said and "ood" in said
    (code,) = blocks("python", PAGE)
    assert run(folder, ["-c", code]).startswith("<France><capital><river>")
    assert (folder / "runs" / "mine" / "report.html").stat().st_size > 10_000
    found = RunFolder.read(folder / "runs" / "mine")
    assert found.last_step == 3 and found.at_end("ood_atomic", "exact_match") is not None
    block = next(block for block in blocks("text", PAGE) if block.startswith("$ "))
    command, expected = block.splitlines()
    assert run(folder, command.split()[2:], status=2).startswith(expected.removesuffix(" ..."))


@pytest.mark.slow
def test_a_table_of_200_lines_becomes_a_grokked_model_with_its_report(folder: Path) -> None:
    assert len((folder / "facts.csv").read_text().splitlines()) == 201
    (command,) = blocks("bash", PAGE)[0].splitlines()
    run(folder, command.split()[1:])
    found = RunFolder.read(folder / "runs" / "mine")
    assert found.grok.gen_step is not None and found.grok.fit_step is not None
    final = found.latest("final_id_exact_match")
    assert final is not None and final >= 0.99
    assert str(found.grok.gen_step) in (folder / "runs" / "mine" / "report.html").read_text().replace(",", "")


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="the extra gym is not installed")
def test_questions_of_reasoning_gym_are_shown(folder: Path) -> None:
    (block,) = blocks("sh", PAGE)
    install, *lines = block.splitlines()
    assert install == "pip install 'groklab[gym]'" and 'gym = ["reasoning-gym' in (ROOT / "pyproject.toml").read_text()
    for line in lines:
        said = run(folder, line.split()[1:])
        assert line.split()[5] in said and "held out" in said


def test_the_first_facts_are_those_of_the_example() -> None:
    shown = next(block for block in blocks("text", PAGE) if block.startswith("head,"))
    example = (ROOT / "recipes" / "own_facts.csv").read_text(encoding="utf-8").splitlines()
    assert set(shown.splitlines()) <= set(example)


def test_the_sentences_fit_the_rows(folder: Path) -> None:
    _, shown = blocks("yaml", PAGE)
    make_base(folder / "base", "gpt2", steps=1)
    recipe = folder / "sentences.yaml"
    recipe.write_text(
        shown.replace("model_name_or_path: gpt2", f"model_name_or_path: {folder / 'base'}").replace(
            "facts.csv", str(folder / "facts.csv")
        )
        + "max_steps: 1\nglobal_batch_size: 8\n"
    )
    read = read_recipe(recipe, ["--output_dir", str(folder / "out")])
    templates = read.model.as_dict()["templates"]
    assert set(templates) == {"*_inferred*", "default"}
    stored = build(read.corpus)
    types = {block.type for split in ("train", "id") for block in stored.blocks(split)}
    assert types == {"id_atomic", "ood_atomic", "invented_atomic", "train_inferred", "test_inferred_iid"}
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    rows = render(stored, "id", tokenizer, templates)
    for tokens, length in zip(rows.tokens_NT.tolist(), (rows.prompt_N + rows.answer_N).tolist()):
        text = tokenizer.decode(tokens[:length])
        assert re.fullmatch(r"The \S+ of the \S+ of \S+ is \S+( \S+)?", text), text
