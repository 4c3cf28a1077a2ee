"""Runs that are trained as one step: each as transformers trains it alone, whatever stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config.recipe import read_recipe
from pipeline.kernels.stacked import Stacked
from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import read_history
from pipeline.training.session import prepare, train
from pipeline.training.stack import Member, Stack
from pipeline.training.stacking import check_stack
from pipeline.utils.errors import ParameterError
from pipeline.utils.signals import REQUEST
from tests.tiny import COMPOSITION, RECIPE, write_recipe
from tests.training.test_trainer import trainer_of

NEOX = RECIPE.replace("{name: gpt2, n_layer: 1,", "{name: pythia, n_layer: 2,")
DYCK = RECIPE.replace(
    "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}",
    "{name: dyck, types: 3, depth: 4, longest: 20, train_rows: 200, id_rows: 30, gen_rows: 30}",
)
DYCK = DYCK.replace("n_positions: 8", "n_positions: 24")
STEPS = ("--max_steps", "50", "--save_steps", "25", "--eval_steps", "25", "--logging_steps", "1")
STEPS += ("--checkpoints.powers_of_two", "false", "--checkpoints.every", "[[25,null]]")
# A rate and a warm-up at which training does not blow rounding up.
CALM = (*STEPS, "--model.dropout", "0", "--warmup_steps", "10", "--learning_rate", "2e-3")
# Each turns one knob of the first, and one of them ends before the others.
KNOBS: dict[str, tuple[str, ...]] = {
    "base": (),
    "data_seed": ("--data_seed", "5"),
    "rate": ("--learning_rate", "1e-3"),
    "no decay": ("--weight_decay", "0"),
    "betas": ("--adam_beta1", "0.8", "--adam_beta2", "0.9", "--adam_epsilon", "1e-3"),
    "clipped": ("--max_grad_norm", "0.2"),
    "schedule": ("--lr_scheduler_type", "cosine"),
    "shorter": ("--max_steps", "33"),
}


def stack_of(folder: Path, text: str, words: tuple[str, ...], runs: dict[str, tuple[str, ...]]) -> Stack:
    """The stack of these runs, before it is trained; they lie in folders of their names."""
    folder.mkdir(exist_ok=True)
    path = write_recipe(folder, text)
    members = []
    for name, own in runs.items():
        recipe = read_recipe(path, ["--output_dir", str(folder / name), *words, *own])
        members.append(Member(prepare(recipe, is_stacked=True), folder / f"{name}.log"))
    check_stack([member.trainer for member in members])
    return Stack(members)


def trained(folder: Path, text: str, words: tuple[str, ...], runs: dict[str, tuple[str, ...]]) -> Stack:
    stack = stack_of(folder, text, words, runs)
    stack.run()
    assert [member.error for member in stack.members] == [None] * len(runs)
    return stack


def alone(folder: Path, text: str, *words: str) -> Path:
    """The folder of a run that was trained alone."""
    folder.mkdir(parents=True)
    train(trainer_of(folder, text, *words))
    return folder / "run"


def curve(run: Path) -> list[dict[str, Any]]:
    """What was logged, without times."""
    return [
        {key: value for key, value in line.items() if not any(word in key for word in ("second", "share", "runtime"))}
        for line in read_history(run)
    ]


def updates_of(run: Path) -> list[dict[str, Any]]:
    """What was logged of training and at evaluations, without the sums over a start."""
    return [line for line in curve(run) if "train_loss" not in line]


def check_same(run: Path, alone: Path) -> None:
    """Compares all numbers, kept steps and checkpoints of a run with those of the same run alone."""
    ours, theirs = curve(run), curve(alone)
    assert [set(line) for line in ours] == [set(line) for line in theirs]
    for one, other in zip(ours, theirs):
        for key, value in one.items():
            bound = 1e-3 if key == "grad_norm" else 0.05 if key.endswith(("match", "collapse")) else 1e-4
            assert value == pytest.approx(other[key], rel=bound, abs=bound if bound == 0.05 else None), (key, one)
    kept, expected = Manifest.load(run), Manifest.load(alone)
    assert [*kept.kept] == [*expected.kept] and [*kept.resumable] == [*expected.resumable]
    for step in kept.kept:
        weights = load_file(run / "steps" / f"step{step}" / "model.safetensors")
        for name, weight in load_file(alone / "steps" / f"step{step}" / "model.safetensors").items():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=2e-4)
    for step in kept.resumable:
        ours_pt, theirs_pt = (folder / f"checkpoint-{step}" / "optimizer.pt" for folder in (run, alone))
        assert ours_pt.stat().st_size == pytest.approx(theirs_pt.stat().st_size, rel=0.05)
        states = [torch.load(path, weights_only=True) for path in (ours_pt, theirs_pt)]
        assert states[0]["param_groups"] == states[1]["param_groups"]
        for number, state in states[1]["state"].items():
            for key, value in state.items():
                torch.testing.assert_close(states[0]["state"][number][key], value, rtol=1e-3, atol=1e-5)


def test_every_run_is_as_transformers_trains_it_alone(tmp_path: Path) -> None:
    trained(tmp_path, RECIPE, CALM, KNOBS)
    last = {}
    for name, own in KNOBS.items():
        check_same(tmp_path / name, alone(tmp_path / "alone" / name, RECIPE, *CALM, *own, "--fast", "false"))
        last[name] = curve(tmp_path / name)[30]["loss"]
    # Each knob did something, and the runs have learned.
    assert len(set(last.values())) == len(KNOBS) - 1  # of the shorter run, the first steps are those of the base
    losses = [line["loss"] for line in curve(tmp_path / "base") if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [(COMPOSITION, ()), (COMPOSITION, ("--objective.tokens", "all")), (NEOX, ()), (DYCK, ("--objective.tokens", "all")),
     (RECIPE, ("--objective.loss", "stablemax")), (RECIPE, ("--decay_norms_and_biases", "true"))],
    ids=["composition", "all tokens", "neox", "long", "stablemax", "all decay"],
)  # fmt: skip
def test_rows_models_and_losses_of_every_kind(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    runs = {"a": ("--seed", "1"), "b": ("--seed", "2", "--corpus.seed", "7")}
    trained(tmp_path, text, (*CALM, *words), runs)
    for name, own in runs.items():
        check_same(tmp_path / name, alone(tmp_path / "alone" / name, text, *CALM, *words, *own, "--fast", "false"))


def test_runs_in_bfloat16(tmp_path: Path) -> None:
    words = (*CALM, "--bf16", "true", "--use_cpu", "true")
    trained(tmp_path, RECIPE, words, {"a": (), "b": ("--seed", "1")})
    other = alone(tmp_path / "alone", RECIPE, *words)
    ours, theirs = ([line["loss"] for line in curve(run) if "loss" in line] for run in (tmp_path / "a", other))
    assert ours == pytest.approx(theirs, rel=2e-2)


def test_dropout_of_a_run_is_its_own_whoever_stands_beside_it(tmp_path: Path) -> None:
    words = (*CALM, "--model.dropout", "0.3")
    runs = {"a": ("--seed", "1"), "b": ("--seed", "2"), "c": ("--seed", "2", "--data_seed", "2")}
    trained(tmp_path / "three", RECIPE, words, runs)
    trained(tmp_path / "two", RECIPE, words, {"b": runs["b"], "a": runs["a"]})
    check_same(tmp_path / "two" / "a", tmp_path / "three" / "a")
    # The seed alone decides the masks: with the same rows, b and c are the same run.
    check_same(tmp_path / "three" / "b", tmp_path / "three" / "c")
    losses = [curve(tmp_path / "three" / name)[40]["loss"] for name in "ab"]
    calm = trained(tmp_path / "calm", RECIPE, CALM, {"a": runs["a"]})
    assert len({*losses, curve(tmp_path / "calm" / "a")[40]["loss"]}) == 3 and calm.updates == 50


def test_a_stack_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, runs = (*CALM, "--model.dropout", "0.1"), {"a": ("--seed", "1"), "b": ("--seed", "2")}
    trained(tmp_path / "straight", RECIPE, words, runs)
    stack = stack_of(tmp_path / "stopped", RECIPE, words, runs)
    made, usual = 0, Stacked.update

    def stops(self: Stacked, *inputs: Any) -> Any:
        nonlocal made
        made += 1
        if made == 31:
            REQUEST.number = 15
        return usual(self, *inputs)

    with monkeypatch.context() as patched:
        patched.setattr(Stacked, "update", stops)
        try:
            stack.run()
        finally:
            REQUEST.forget()
    assert ["SIGTERM after step 31" in member.ending() for member in stack.members] == [True, True]
    assert all(max(Manifest.load(tmp_path / "stopped" / name).resumable) == 31 for name in runs)
    trained(tmp_path / "stopped", RECIPE, words, runs)
    assert "resumes after step 31" in (tmp_path / "stopped" / "a.log").read_text()
    for name in runs:
        ours, theirs = (tmp_path / kind / name for kind in ("stopped", "straight"))
        assert updates_of(ours) == updates_of(theirs)
        assert (ours / "steps/step50/model.safetensors").read_bytes() == (
            theirs / "steps/step50/model.safetensors"
        ).read_bytes()


def test_a_run_may_go_on_alone_and_in_a_stack_again(tmp_path: Path) -> None:
    trained(tmp_path, RECIPE, (*CALM, "--max_steps", "25"), {"a": (), "b": ("--seed", "1")})
    recipe = write_recipe(tmp_path, RECIPE)
    train(prepare(read_recipe(recipe, [*CALM, "--max_steps=35", f"--output_dir={tmp_path / 'a'}"])))
    stack = trained(tmp_path, RECIPE, CALM, {"a": (), "b": ("--seed", "1")})  # at steps 35 and 25
    assert stack.updates == 15 + 25
    for name, own in (("a", ()), ("b", ("--seed", "1"))):
        other = alone(tmp_path / "alone" / name, RECIPE, *CALM, *own, "--fast", "false")
        last = load_file(tmp_path / name / "steps/step50/model.safetensors")
        for key, weight in load_file(other / "steps/step50/model.safetensors").items():
            torch.testing.assert_close(last[key], weight, rtol=0, atol=2e-4)


def test_a_run_that_fails_or_ends_leaves_the_stack_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, usual = [], Stacked.__init__
    monkeypatch.setattr(
        Stacked, "__init__", lambda self, models, *rest: sizes.append(len(models)) or usual(self, models, *rest)
    )
    runs = {"good": (), "short": ("--max_steps", "20"), "bad": ("--learning_rate", "1e25", "--seed", "1")}
    stack = trained(tmp_path, RECIPE, CALM, runs)
    endings = dict(zip(runs, (member.ending() for member in stack.members)))
    assert endings["good"] == endings["short"] == ""
    assert "the loss is not finite at step" in endings["bad"]
    assert sizes == [3, 2, 1]
    check_same(tmp_path / "good", alone(tmp_path / "alone", RECIPE, *CALM, "--fast", "false"))
    weights = stack.members[1].trainer.model.state_dict()
    for name, weight in load_file(tmp_path / "short/steps/step20/model.safetensors").items():
        assert torch.equal(weights[name], weight) and weights[name].untyped_storage().nbytes() == 4 * weight.numel()


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (RECIPE, ("--fast", "false"), "needs the fast step and the short forward"),
        (RECIPE, ("--model.name", "gpt2_bilinear"), "short forward: the model's own forward is used"),
        (DYCK, (), "stacked, attention over 21 tokens has none, only up to 6; write 0"),
    ],
)
def test_what_a_stack_does_not_compute_is_refused(
    text: str, words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match=message):
        stack_of(tmp_path, text, words, {"a": (), "b": ("--seed", "1")})


def test_runs_of_other_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="differ in shape"):
        stack_of(tmp_path, RECIPE, (), {"a": (), "b": ("--corpus.group", "Z23")})
