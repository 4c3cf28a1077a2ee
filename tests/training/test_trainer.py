"""The Trainer subclass: its loss, its evaluation, its weight decay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import TrainingArguments

from pipeline.config.recipe import read_recipe
from pipeline.data.rows import Rows
from pipeline.training.decoding import ExactMatch, decode_greedily
from pipeline.training.evaluation import group_sums
from pipeline.training.session import prepare, train
from pipeline.training.trainer import GrokTrainer
from tests.tiny import COMPOSITION, RECIPE, write_recipe


def trainer_of(folder: Path, text: str, *overrides: str) -> GrokTrainer:
    path = write_recipe(folder, text)
    return prepare(read_recipe(path, ["--output_dir", str(folder / "run"), *overrides]))


def test_a_process_that_writes_nothing_needs_nothing_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be far ahead of the first process, which has not yet written what runs are described by."""
    monkeypatch.setattr(TrainingArguments, "should_save", False)
    assert trainer_of(tmp_path, RECIPE).recipe.name == "tiny" and not (tmp_path / "run").exists()


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_first_process_says_whether_the_last_step_is_kept(
    is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may still be at it when another one looks, and keeping is for all processes together."""
    monkeypatch.setattr(TrainingArguments, "should_save", False)
    trainer = trainer_of(tmp_path, RECIPE, "--max_steps", "5", "--save_strategy", "no")
    said: list[list[object]] = [[is_kept], [None, trainer.grok]]
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda mine: said.pop())
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    kept: list[int] = []
    monkeypatch.setattr(trainer, "keep_step", lambda metrics: kept.append(trainer.state.global_step))
    train(trainer)
    assert not said and kept.count(5) == (0 if is_kept else 1)  # 5 is not in the schedule


def test_the_loss_is_that_of_the_answer_tokens_alone(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, COMPOSITION)
    trainer.model.eval()
    rows = trainer.train_rows
    chosen = torch.tensor([0, 1, len(rows) - 1, len(rows) - 2, len(rows) - 3])
    batch = rows.__getitems__(chosen)
    ours = trainer.compute_loss(trainer.model, batch)
    # The same by the model's own loss, row by row, without padding.
    total = torch.zeros(())
    for row in chosen.tolist():
        end = int(rows.prompt_N[row] + rows.answer_N[row])
        tokens = rows.tokens_NT[row : row + 1, :end]
        labels = tokens.clone()
        labels[:, : int(rows.prompt_N[row])] = -100
        total += trainer.model(input_ids=tokens, labels=labels).loss * int(rows.answer_N[row])
    torch.testing.assert_close(ours, total / 10, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("text", [RECIPE, COMPOSITION], ids=["group", "composition"])
@pytest.mark.parametrize("trained", [False, True])
def test_the_teacher_forced_pass_is_greedy_decoding_with_exact_match(text: str, trained: bool, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, text, "--max_steps", "150", "--save_strategy", "no")
    if trained:
        train(trainer)
    metrics = trainer.evaluate()
    for split, rows in trainer.splits.items():
        predictions, references = decode_greedily(trainer.model, rows)
        assert len(predictions) == len(rows)
        exact = ExactMatch().compute(predictions=predictions, references=references)["exact_match"]
        assert metrics[f"eval_{split}_exact_match"] == exact
    if trained:
        assert metrics["eval_train_exact_match"] > 0  # so that the equality says something


def test_evaluation_measures_loss_and_collapse(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, RECIPE)
    trainer.model.eval()
    rows = trainer.splits["id"]
    logits = trainer.model(input_ids=rows.tokens_NT[:, :-1]).logits[:, -1]
    metrics = trainer.evaluate()
    assert metrics["eval_id_loss"] == pytest.approx(F.cross_entropy(logits, rows.tokens_NT[:, -1]).item(), rel=1e-5)
    assert metrics["eval_train_softmax_collapse"] == 0.0
    with torch.no_grad():
        trainer.model.transformer.wte.weight.mul_(1000)  # logits so far apart that float32 sees one
    assert trainer.evaluate()["eval_train_softmax_collapse"] > 0.9


def test_evaluation_in_many_batches_and_on_some_rows(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, RECIPE, "--max_eval_samples", "10")
    some = trainer.evaluate()
    trainer.args.per_device_eval_batch_size = 3
    many = trainer.evaluate()
    for key in some:
        if key != "eval_seconds":
            assert some[key] == pytest.approx(many[key], rel=1e-5), key
    assert (some["eval_id_exact_match"] * 10) % 1 == 0
    every = trainer.evaluate_every_row()
    assert (every["final_id_exact_match"] * len(trainer.splits["id"])) % 1 == pytest.approx(0, abs=1e-9)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    ranks=st.integers(1, 9),
    batch=st.integers(1, 16),
)
def test_any_number_of_processes_counts_every_row_once_in_as_many_batches(
    sizes: list[int], ranks: int, batch: int
) -> None:
    """The share of each process, one after the other; what they would sum up is summed here."""
    split_N = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    answers_N1 = torch.arange(len(split_N))[:, None]
    rows = Rows(torch.hstack([answers_N1, answers_N1]), torch.ones_like(split_N), torch.ones_like(split_N))
    batches: list[int] = []

    def judge(taken: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        batches[-1] += 1
        ones_B = torch.ones(len(taken["labels"]), dtype=torch.bool)
        return ones_B, torch.ones_like(taken["labels"], dtype=torch.float32), ones_B[:, None]

    total_S4 = torch.zeros(len(sizes), 4, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dist, "all_reduce", lambda sums: None)
        for rank in range(ranks):
            batches.append(0)
            args = SimpleNamespace(world_size=ranks, process_index=rank, eval_batch_size=batch, device="cpu")
            total_S4 += group_sums(judge, rows, split_N, len(sizes), args)
    assert total_S4.tolist() == [[size] * 4 for size in sizes]
    assert len(set(batches)) == 1


def test_evaluation_leaves_training_as_it_was(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, RECIPE)
    trainer.model.train()
    state = torch.get_rng_state()
    trainer.evaluate()
    trainer.check_by_decoding()
    assert torch.get_rng_state().equal(state)


def test_weight_decay_reaches_what_the_recipe_says(tmp_path: Path) -> None:
    def decayed(*overrides: str) -> set[str]:
        trainer = trainer_of(tmp_path, RECIPE, *overrides)
        names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
        groups = trainer.create_optimizer().param_groups
        return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}

    embeddings = {"transformer.wte.weight", "transformer.wpe.weight"}
    usual = decayed()
    assert embeddings < usual and not any("bias" in name or ".ln_" in name for name in usual)
    assert decayed("--decay_embeddings", "false") == usual - embeddings
    everything = decayed("--decay_norms_and_biases", "true")
    assert (
        usual < everything and any("bias" in name for name in everything) and any(".ln_" in name for name in everything)
    )
