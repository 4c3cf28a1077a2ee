"""DPO against its formula, by plain transformers; and the wrong answers that it is trained against."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.recipe import read_recipe
from pipeline.corpora.responses import Responses
from pipeline.corpora.store import build
from pipeline.data.preferences import changed_answers, other_answers
from pipeline.data.rows import from_lists, load_rows
from pipeline.training.session import prepare
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError
from tests.test_run import FINAL, same_weights
from tests.tiny import COMPOSITION, RECIPE, run_here, write_recipe

DPO = "{name: preference, beta: 0.5, beta_rejected: 0.3, sft: 0.2, rejected: changed}"


def prepared(folder: Path, *words: str) -> Any:
    given = ("--objective", DPO, "--model.dropout=0", "--corpus.bridge=said", f"--output_dir={folder / 'run'}")
    trainer = prepare(read_recipe(write_recipe(folder, COMPOSITION), [*given, *words]))
    trainer.create_optimizer_and_scheduler(1)
    return trainer


def log_p(model: Any, rows: Any, row: int) -> torch.Tensor:
    """The log probability of one answer, given its prompt."""
    start, stop = int(rows.prompt_N[row]), int(rows.prompt_N[row] + rows.answer_N[row])
    tokens = rows.tokens_NT[row, :stop]
    found = model(input_ids=tokens[None, :-1]).logits[0].log_softmax(-1)
    return torch.stack([found[place - 1, tokens[place]] for place in range(start, stop)]).sum()


@pytest.mark.parametrize(
    "words", [(), ("--per_device_train_batch_size=8",), ("--fast=false",), ("--objective.reference=kept",)]
)
def test_an_update_is_that_of_the_formula(words: tuple[str, ...], tmp_path: Path) -> None:
    trainer = prepared(tmp_path, *words)
    model, rows = trainer.model.train(), trainer.train_rows
    start = copy.deepcopy(model).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    order = trainer.get_train_dataloader().batch_sampler
    taken = [index for index, _ in zip(order, range(32 // trainer.args.train_batch_size))]
    batches = [rows.__getitems__(index) for index in taken]
    items = trainer._get_num_items_in_batch(batches, trainer.args.device)
    loss = sum(trainer.compute_loss(model, batch, num_items_in_batch=items) for batch in batches)
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    pairs, expected = torch.cat(taken).tolist(), torch.zeros(())
    assert len(pairs) == 32
    for pair in pairs:
        right, wrong = log_p(model, rows, pair), log_p(model, rows, pair + len(rows))
        with torch.no_grad():
            moved = log_p(start, rows, pair), log_p(start, rows, pair + len(rows))
        z = 0.5 * (right - moved[0]) - 0.3 * (wrong - moved[1])
        expected = expected + (-torch.sigmoid(z).log() - 0.2 * right) / 32
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    expected.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-3, atol=1e-5)


def test_wrong_answers_are_others_or_have_one_other_token() -> None:
    prompts = [[1, number] for number in range(2, 42)]
    answers = [[50 + number % 5, 60 + number % 3, 70] if number % 2 else [80 + number % 4] for number in range(40)]
    rows = from_lists(prompts, answers)
    for change in (other_answers, changed_answers):
        wrong = change(rows, Draws(0, "test"))
        again = change(rows, Draws(0, "test"))
        assert torch.equal(wrong.tokens_NT, again.tokens_NT) and torch.equal(wrong.prompt_N, rows.prompt_N)
        for row, (prompt, answer) in enumerate(zip(prompts, answers)):
            found = wrong.tokens_NT[row, : len(prompt) + int(wrong.answer_N[row])].tolist()
            given = found[len(prompt) :]
            assert found[: len(prompt)] == prompt and len(given) == len(answer) and given != answer
            if change is other_answers:
                assert given in answers
            else:
                differing = [place for place, (one, two) in enumerate(zip(given, answer)) if one != two]
                assert len(differing) == 1
                place = differing[0]
                assert given[place] in {other[place] for other in answers if len(other) == len(answer)}
    alike = from_lists([[1], [2]], [[3], [3]])
    for change in (other_answers, changed_answers):
        with pytest.raises(ParameterError, match=r"^rejected: "):
            change(alike, Draws(0, "test"))


def test_the_wrong_answers_of_a_corpus_are_its_own(tmp_path: Path) -> None:
    text = RECIPE.replace(
        "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}", "{name: responses, rows: pairs}"
    )
    words = [
        "--objective",
        "{name: preference, rejected: corpus}",
        "--global_batch_size=4",
        f"--output_dir={tmp_path / 'x'}",
    ]
    rows = prepare(read_recipe(write_recipe(tmp_path, text), words)).train_rows
    stored = build(Responses(rows="pairs"))
    policy = load_rows(build(Responses()), "train")
    for row in range(4):
        prompt, right, wrong = (int(rows.tokens_NT[at, place]) for at, place in ((row, 0), (row, 1), (row + 4, 1)))
        assert prompt == int(rows.tokens_NT[row + 4, 0]) and right != wrong
        answers = policy.tokens_NT[policy.tokens_NT[:, 0] == prompt, 1].tolist()
        assert answers.count(right) / len(answers) == answers.count(wrong) / len(answers) == 0.4
    assert stored.sizes["train"] == 4


def test_a_run_resumes_and_tells_where_probability_goes(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("callbacks: {", "callbacks: {preference_dynamics: {}, "))
    words = ("--objective", "{name: preference, beta_rejected: 0.05}", "--model.dropout", "0")
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    assert run_here(recipe, *words, "--output_dir", str(straight)) == 0
    assert run_here(recipe, *words, "--output_dir", str(parts), "--max_steps", "13") == 0
    assert run_here(recipe, *words, "--output_dir", str(parts)) == 0
    assert same_weights(parts / FINAL, straight / FINAL)
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line for line in lines if "preference_chosen" in line}
    assert {0, 6, 12, 18, 24} <= found.keys()
    trainer = prepare(read_recipe(recipe, [*words, f"--output_dir={tmp_path / 'new'}"]))
    rows, last = trainer.train_rows, found[24]
    from transformers import AutoModelForCausalLM

    end = AutoModelForCausalLM.from_pretrained((straight / FINAL).parent)
    with torch.no_grad():
        ends = [
            [float(log_p(model, rows, row)) for row in range(2 * len(rows))] for model in (end, trainer.model.eval())
        ]
    assert len(rows) <= 256
    means: dict[str, float] = dict.fromkeys(last, 0.0)
    for pair in range(len(rows)):
        right, wrong = (ends[0][row] for row in (pair, pair + len(rows)))
        moved = [ends[0][row] - ends[1][row] for row in (pair, pair + len(rows))]
        # The derivative by a probability itself, by autograd in float64.
        p = torch.tensor([right, wrong], dtype=torch.float64).exp().requires_grad_()
        z = 0.1 * p[0].log() - 0.05 * p[1].log() - 0.1 * (right - moved[0]) + 0.05 * (wrong - moved[1])
        (-torch.nn.functional.logsigmoid(z)).backward()
        assert p.grad is not None
        values = {
            "preference_chosen": math.exp(right), "preference_rejected": math.exp(wrong),
            "preference_unseen": 1 - math.exp(right) - math.exp(wrong), "preference_accuracy": float(z > 0),
            "preference_gradient_chosen": math.log10(abs(p.grad[0])),
            "preference_gradient_rejected": math.log10(abs(p.grad[1])),
        }  # fmt: skip
        for key, value in values.items():
            means[key] += value / len(rows)
    for key in values:
        assert last[key] == pytest.approx(means[key], abs=2e-3), key
    assert found[0]["preference_accuracy"] == 0 and last["preference_accuracy"] > 0.5


def test_mistakes_are_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    base = "{name: preference}"
    for words, said in {
        ("--objective", "{name: preference, rejected: corpus}"): "objective.rejected: group says no wrong answers",
        ("--objective", base, "--fork", "runs/x@3"): "fork: objective preference compares with the model that training",
        (
            "--objective",
            base,
            "--collator",
            "{span_drop: {}}",
        ): "collator.span_drop: objective preference needs prompts",
    }.items():
        assert run_here(path, *words) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
