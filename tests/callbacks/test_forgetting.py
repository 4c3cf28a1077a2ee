"""Embeddings that are forgotten: when, what of the optimizer, resumed and on two processes; and the forced choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.callbacks.embedding_forgetting import EmbeddingForgetting
from pipeline.config.recipe import read_recipe
from pipeline.runs.metrics import read_history
from pipeline.training.session import prepare, train
from pipeline.utils.errors import ParameterError
from tests.tiny import RECIPE, ROOT, free_port, run_here, run_process, write_recipe

PLAIN = "{console: {style: plain, seconds: 0}}"
CORPUS = "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}"
POS = "{name: pos_icl, vocabulary_size: 40, unseen: 6, train_rows: 400, eval_rows: 40}"


def recipe_with(folder: Path, text: str = RECIPE, **callbacks: Any) -> Path:
    return write_recipe(folder, text.replace(PLAIN, json.dumps({"console": {"style": "off"}, **callbacks})))


def trained(folder: Path, *words: str, **chosen: Any) -> Any:
    recipe = recipe_with(folder, embedding_forgetting=chosen)
    trainer = prepare(read_recipe(recipe, [*words, "--output_dir", str(folder / "run")]))
    train(trainer)
    return trainer


def embedding_at(folder: Path, step: int) -> torch.Tensor:
    return load_file(folder / "run" / "steps" / f"step{step}" / "model.safetensors")["transformer.wte.weight"]


def test_embeddings_are_drawn_anew_after_a_step_is_kept_and_until_a_step(tmp_path: Path) -> None:
    every = ("--checkpoints.every", "[[1, null]]", "--max_steps", "10", "--learning_rate", "1e-6")
    trained(tmp_path, *every, every=4, until=8)
    # So small a rate moves nothing: only what is drawn anew differs.
    same = {(a, b): torch.allclose(embedding_at(tmp_path, a), embedding_at(tmp_path, b), atol=1e-4) for a, b in
            ((0, 4), (4, 5), (5, 8), (8, 10))}  # fmt: skip
    assert same == {(0, 4): True, (4, 5): False, (5, 8): True, (8, 10): True}
    assert embedding_at(tmp_path, 5).std().item() == pytest.approx(0.02, rel=0.2)
    blocks = [load_file(tmp_path / "run" / "steps" / f"step{step}" / "model.safetensors") for step in (4, 5)]
    key = "transformer.h.0.mlp.c_fc.weight"
    torch.testing.assert_close(blocks[0][key], blocks[1][key], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("reset", "embedding", "other"), [("embeddings", 2, 6), ("all", 2, 2), ("none", 6, 6)])
def test_the_optimizer_forgets_what_it_is_told_to(reset: str, embedding: int, other: int, tmp_path: Path) -> None:
    trainer = trained(tmp_path, "--max_steps", "6", every=4, optimizer_reset=reset)
    states = trainer.loop.optimizer.state
    body = trainer.model.transformer
    steps = [int(states[weight]["step"]) for weight in (body.wte.weight, body.h[0].mlp.c_fc.weight)]
    assert steps == [embedding, other]


def test_an_interrupted_run_forgets_the_same(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path, embedding_forgetting={"every": 6})
    straight = tmp_path / "straight"
    assert run_here(recipe, "--output_dir", str(straight)) == 0
    assert run_here(recipe, "--max_steps", "12") == 0
    assert run_here(recipe) == 0
    ours, theirs = (load_file(run / "steps/step24/model.safetensors") for run in (tmp_path / "run", straight))
    assert all(ours[key].equal(theirs[key]) for key in ours)


def test_by_chance_tokens_change_for_a_step_and_embeddings_are_not_trained(tmp_path: Path) -> None:
    trainer = trained(tmp_path, "--max_steps", "6", probability=0.5)
    first = embedding_at(tmp_path, 0)
    assert trainer.model.transformer.wte.weight.equal(first)
    assert trainer.model.transformer.wte.weight not in trainer.loop.optimizer.state
    plain = tmp_path / "plain"
    assert run_here(recipe_with(tmp_path), "--max_steps", "6", "--output_dir", str(plain)) == 0
    ours, theirs = (load_file(run / "steps/step6/model.safetensors") for run in (tmp_path / "run", plain))
    assert not ours["transformer.h.0.mlp.c_fc.weight"].equal(theirs["transformer.h.0.mlp.c_fc.weight"])


@pytest.mark.slow
def test_two_processes_forget_the_same(tmp_path: Path) -> None:
    text = RECIPE.replace("dropout: 0.1", "dropout: 0.0")
    recipe = recipe_with(tmp_path, text, embedding_forgetting={"every": 5})
    assert run_here(recipe) == 0
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    words = [str(ROOT / "pipeline" / "run.py"), str(recipe), "--output_dir", str(tmp_path / "two"), "--use_cpu", "true"]
    result = run_process(*launch, *words)
    assert result.returncode == 0, result.stderr
    losses = [
        [line[key] for line in read_history(tmp_path / run) for key in ("loss", "eval_id_loss") if key in line]
        for run in ("run", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_what_cannot_be_is_said() -> None:
    for chosen in ({}, {"every": 3, "probability": 0.1}):
        with pytest.raises(ParameterError, match="every: one of every and probability is needed, and not both"):
            EmbeddingForgetting(**chosen)


def test_a_forced_choice_is_between_the_words_of_the_prompt(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path, RECIPE.replace(CORPUS, POS), forced_choice={"place": 2})
    trainer = prepare(read_recipe(recipe, ["--max_steps", "12", "--output_dir", str(tmp_path / "run")]))
    train(trainer)
    logged = [line for line in read_history(tmp_path / "run") if "forced_choice_train" in line][-1]
    assert {f"forced_choice_{split}" for split in trainer.splits} <= logged.keys()
    # Again by hand: the logits of both words at the second target.
    model = trainer.model.eval()
    rows = trainer.splits["tail"]
    copula = trainer.recipe.corpus.vocabulary_size
    right = []
    for row in rows.tokens_NT:
        words = [int(token) for token in row[:3] if token != copula]
        logits = model(row[None, :5]).logits[0, -1].tolist()
        right.append(max(words, key=lambda word: logits[word]) == int(row[5]))
    assert logged["forced_choice_tail"] == pytest.approx(sum(right) / len(right), abs=1e-6)
    # Words that are never trained have rows of their own again.
    before = model.transformer.wte.weight.detach().clone()
    trainer.evaluate()
    assert model.transformer.wte.weight.equal(before)
