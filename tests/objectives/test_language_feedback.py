"""What a model is taught by its own refinements, against plain `generate` and rules written on texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.config.recipe import read_recipe
from pipeline.corpora.store import build
from pipeline.corpora.word_removal import NOUNS, WordRemoval
from pipeline.training.session import prepare
from tests.test_run import FINAL, same_weights
from tests.tiny import RECIPE, run_here, write_recipe

SIZE = "nouns: 5, unseen: 0, unwanted: 3, most_nouns: 1, longest: 1, most_removed: 1, rows: 40, test_rows: 2"
FIRST = (
    RECIPE.replace(
        "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}",
        f"{{name: word_removal, tasks: [remove, write], {SIZE}}}",
    )
    .replace("name: gpt2, n_layer: 1, n_embd: 16", "name: pythia, n_layer: 2, n_embd: 32")
    .replace("n_positions: 8, dropout: 0.1", "n_positions: 32")
    .replace("global_batch_size: 16", "global_batch_size: 10")
)
UNWANTED = set(NOUNS[2:5])


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage one, which has learned to remove a word, and to write what it is given."""
    folder = tmp_path_factory.mktemp("first")
    path = write_recipe(folder, FIRST.replace("max_steps: 24", "max_steps: 120").replace("eval_steps: 6", ""))
    assert run_here(path, "--save_strategy", "no", "--checkpoints", "{initial: false}") == 0
    return folder / "run" / "steps" / "step120"


def second(started: Path, objective: str) -> str:
    text = FIRST.replace("tasks: [remove, write]", "tasks: [wanted]").replace("batch_size: 10", "batch_size: 4")
    start, end = text.index("model: "), text.index("checkpoints:")
    model = f"model: {{model_name_or_path: {started}, vocabulary: tokens}}\n"
    return f"{text[:start]}{model}objective: {{name: language_feedback, {objective}}}\n{text[end:]}"


def by_hand(started: Path, only_right: bool) -> list[tuple[str, str]]:
    """Prompts and what is imitated, by greedy decoding alone, one prompt at a time."""
    model = AutoModelForCausalLM.from_pretrained(started)
    stored = build(WordRemoval(tasks=("wanted",), nouns=5, unseen=0, unwanted=3, most_nouns=1, longest=1,
                               most_removed=1, rows=40, test_rows=2))  # fmt: skip
    ids = {token: number for number, token in enumerate(stored.tokens)}

    def write(text: str) -> str:
        tokens = torch.tensor([[ids[word] for word in text.split()]])
        found = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=4, do_sample=False)
        words = [stored.tokens[token] for token in found[0, tokens.shape[1] :]]
        return " ".join(words[: words.index(".") + 1] if "." in words else words)

    found = []
    for block in stored.blocks("train"):
        for prompt in block.prompts.tolist():
            text = " ".join(stored.tokens[token] for token in prompt)
            draft = answer = write(text)
            if named := [word for word in dict.fromkeys(draft.split()) if word in UNWANTED]:
                answer = write(f"{draft} remove {' and '.join(named)} gives")
            wanted = " and ".join(word for word in text.split()[1:-1] if word not in UNWANTED) + " ."
            if answer == wanted or not only_right:
                found.append((text, answer))
    return found


@pytest.mark.parametrize("keep", ["right", "all"])
def test_what_is_trained_is_what_the_model_has_refined(keep: str, started: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, second(started, f"keep: {keep}"))
    trainer: Any = prepare(read_recipe(path, [f"--output_dir={tmp_path / 'run'}"]))
    rows, tokens = trainer.train_rows, build(trainer.recipe.corpus).tokens
    found = []
    for row, prompt, answer in zip(rows.tokens_NT.tolist(), rows.prompt_N.tolist(), rows.answer_N.tolist()):
        words = [tokens[token] for token in row[: prompt + answer]]
        found.append((" ".join(words[:prompt]), " ".join(words[prompt:])))
    expected = by_hand(started, keep == "right")
    assert sorted(found) == sorted(expected)
    assert any(UNWANTED & set(prompt.split()) for prompt, _ in found)  # something was refined


def test_it_leaves_out_what_nobody_wants_and_a_run_goes_on_with_the_same_rows(started: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, second(started, "refinements: 3, temperature: 0.5"))
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    assert run_here(path, "--output_dir", str(straight)) == 0
    assert run_here(path, "--output_dir", str(parts), "--max_steps", "13") == 0
    assert run_here(path, "--output_dir", str(parts)) == 0
    assert same_weights(parts / FINAL, straight / FINAL)
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    match = {line["step"]: line["eval_train_exact_match"] for line in lines if "eval_train_exact_match" in line}
    assert match[24] > match[0]


def test_mistakes_are_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = write_recipe(tmp_path, RECIPE, "plain")
    ignorant = FIRST.replace("[remove, write]", "[wanted]").replace("batch_size: 10", "batch_size: 4")
    ignorant += "objective: {name: language_feedback}\n"
    for path, words, said in (
        (
            plain,
            ("--objective", "{name: language_feedback}"),
            "objective: language_feedback needs a corpus that critici",
        ),
        (write_recipe(tmp_path, ignorant, "new"), (), "objective.keep: right: the model that training starts from has"),
        (write_recipe(tmp_path, ignorant, "forked"), ("--fork", "runs/x@3"), "fork: objective language_feedback"),
        (
            write_recipe(tmp_path, second(tmp_path, "seed: 1"), "replayed"),
            ("--replay", "{source: text.txt}"),
            "replay: does not go together",
        ),
    ):
        assert run_here(path, *words) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
