"""What each seed of a run moves, and that it moves nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback, set_seed

from pipeline.circuits._pairs import CorpusPairs
from pipeline.config.recipe import read_recipe
from pipeline.corpora.complex_reasoning import ComplexReasoning
from pipeline.corpora.store import build
from pipeline.data.rows import Rows, load_rows
from pipeline.training.session import prepare, train
from pipeline.utils.seeds import row_order, sample, seed_dropout, torch_seed
from tests.tiny import COMPOSITION, RECIPE, run_here, write_recipe

QUIET = ("--save_strategy", "no", "--callbacks.console.style", "off")


class Generators(TrainerCallback):
    """Notes the state of torch's generator before each update, from which dropout is drawn."""

    def __init__(self) -> None:
        self.states: list[list[int]] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.states.append(torch.get_rng_state().tolist())


def tokens(rows: Rows) -> list[list[int]]:
    return rows.tokens_NT.tolist()


def draws_of(folder: Path, *overrides: str) -> dict[str, Any]:
    """Everything random in a run of two steps, to be compared."""
    words = ["--output_dir", str(folder / "-".join(("run", *overrides))), "--max_steps", "2", *QUIET, *overrides]
    recipe = read_recipe(write_recipe(folder, COMPOSITION), words)
    trainer, stored, generators = prepare(recipe), build(recipe.corpus), Generators()
    pairs = CorpusPairs(stored).pairs("id", 8, seed=0)
    found = {
        "weights": [weight.tolist() for weight in trainer.model.parameters()],
        "order": trainer.get_train_dataloader().batch_sampler.update_rows(0).tolist(),
        "corpus": stored.content_hash,
        "train": tokens(trainer.train_rows),
        "probe": tokens(load_rows(stored, "train", 20)),
        "evaluated": [tokens(rows.sample(20, split)) for split, rows in trainer.splits.items()],
        "pairs": (pairs.clean.tolist(), pairs.corrupted.tolist()),
    }
    trainer.add_callback(generators)
    train(trainer)
    return {**found, "dropout": generators.states}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return draws_of(tmp_path_factory.mktemp("usual"))


CORPUS = {"corpus", "train", "probe", "evaluated", "pairs"}  # what follows from the content of the corpus


@pytest.mark.parametrize(
    ("overrides", "moved"),
    [
        ("", set()),
        ("--seed 43", {"weights", "dropout", "order"}),
        ("--seed 43 --data_seed 42", {"weights", "dropout"}),
        ("--data_seed 43", {"order"}),
        ("--data_seed 42", set()),
        ("--corpus.seed 1", CORPUS),
        ("--eval_steps 1 --max_eval_samples 7", set()),
    ],
)
def test_a_seed_moves_what_it_is_for_and_nothing_else(
    overrides: str, moved: set[str], usual: dict[str, Any], tmp_path: Path
) -> None:
    found = draws_of(tmp_path, *overrides.split())
    assert {name for name in usual if found[name] != usual[name]} == moved


@pytest.mark.parametrize("rows", [64, 382_000])
def test_the_order_of_rows_follows_from_seed_and_epoch(rows: int) -> None:
    orders = [row_order(rows, seed, epoch) for seed in (0, 1, 42, 2**31, 2**32 - 1) for epoch in (0, 1)]
    assert len({tuple(order[:64].tolist()) for order in orders}) == 10
    assert all(order.sort().values.equal(torch.arange(rows)) for order in orders)
    assert row_order(rows, 42, 1).equal(orders[5])


def test_seeds_of_torch_are_distinct_where_a_cpu_keeps_their_low_half_only() -> None:
    seeds = [torch_seed("dropout", seed, 0, 0) for seed in range(100_000)]
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == 100_000 and max(seeds) < 2**63
    states = set()
    for seed, process, step in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32 - 1, 0, 0)):
        seed_dropout(seed, process, step)
        states.add(tuple(torch.get_rng_state().tolist()))
    assert len(states) == 5


def test_weights_are_those_of_plain_transformers_under_the_seed(tmp_path: Path) -> None:
    words = ["--output_dir", str(tmp_path / "run"), "--seed", "5"]
    ours = prepare(read_recipe(write_recipe(tmp_path, RECIPE), words)).model.state_dict()
    set_seed(5)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=8, vocab_size=len(ours["lm_head.weight"]))
    theirs = GPT2LMHeadModel(config).state_dict()
    assert ours.keys() == theirs.keys() and all(ours[name].equal(weight) for name, weight in theirs.items())


def test_the_probe_of_train_is_not_what_the_first_updates_show() -> None:
    """3,000 of 40,000 rows fill six updates of 512; that many rows at random have 225 in common with them."""
    first = set(row_order(40_000, 42, 0)[: 6 * 512].tolist())
    drawn = sample(40_000, 3000, "train", "probe")
    assert drawn is not None and len(set(drawn.tolist())) == 3000
    assert len(first & set(drawn.tolist())) < 300


def test_an_evaluation_looks_at_rows_of_every_kind(tmp_path: Path) -> None:
    """The rows of test_hard stand in order of their labels: here 13 of one, such as <attr_1_0>, and 13 of another."""
    stored = build(ComplexReasoning(num_entities=60, num_attributes=4))
    hard = load_rows(stored, "test_hard")

    def labels(rows: Rows) -> list[str]:
        return [stored.tokens[row[place + 1]][-2] for row, place in zip(tokens(rows), rows.prompt_N.tolist())]

    seen = hard.sample(10, "test_hard")
    assert labels(hard) == ["0"] * 13 + ["2"] * 13
    assert 3 <= labels(seen).count("0") <= 7
    assert tokens(seen) == tokens(hard.sample(10, "test_hard"))
    known = {tuple(row) for row in tokens(hard)}
    assert len({tuple(row) for row in tokens(seen)} & known) == 10
    assert {tuple(row) for row in tokens(seen)} < {tuple(row) for row in tokens(hard.sample(20, "test_hard"))}


def test_metrics_of_a_sample_are_those_of_its_rows(tmp_path: Path) -> None:
    words = ["--output_dir", str(tmp_path / "run"), "--max_eval_samples", "9", *QUIET]
    trainer = prepare(read_recipe(write_recipe(tmp_path, RECIPE), words))
    rows = trainer.splits["id"]
    chosen = sample(len(rows), 9, "id")
    assert chosen is not None and chosen.tolist() != list(range(9)) and (np.diff(chosen) > 0).all()
    trainer.model.eval()
    batch = rows.tokens_NT[torch.from_numpy(chosen)]
    labels = batch.masked_fill(torch.arange(batch.shape[1]) < batch.shape[1] - 1, -100)
    loss = trainer.model(input_ids=batch, labels=labels).loss.item()
    assert trainer.evaluate()["eval_id_loss"] == pytest.approx(loss, rel=1e-5)


def test_training_that_took_rows_in_another_order_does_not_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    assert run_here(recipe, "--max_steps", "6") == 0
    starts = json.loads((run / "environment.json").read_text())
    earlier = [{key: value for key, value in start.items() if key != "random_streams"} for start in starts]
    (run / "environment.json").write_text(json.dumps(earlier))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run_here(recipe, "--max_steps", "12") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "another order" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert run_here(recipe, "--max_steps", "6") == 0  # a finished one still says that it is
