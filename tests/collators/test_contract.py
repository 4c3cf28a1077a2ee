"""Every collator: what it changes follows from seed, update and row alone, and reaches what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.collators.base import Collator, chained
from pipeline.config.recipe import read_recipe
from pipeline.config.registry import load, names, room_name
from pipeline.config.yaml_writer import dump
from pipeline.corpora.base import PAD, Corpus
from pipeline.corpora.store import StoredCorpus, build
from pipeline.data.augmented import Augmented, Prompts, PromptSource
from pipeline.data.rows import Rows
from pipeline.training.session import prepare
from pipeline.utils.errors import ParameterError
from tests.test_run import FINAL, same_weights
from tests.tiny import RECIPE, run_here, write_recipe

NAMES = names("collators")


def made(name: str, folder: Path) -> tuple[Any, Corpus]:
    """A collator, and a tiny corpus that it can change."""
    part: Any = load("collators", name, "collator").tiny(folder)
    for other in names("corpora"):
        kind: Any = load("corpora", other, "corpus")
        (folder / other).mkdir()
        corpus = kind.tiny(folder / other)
        try:
            part.check(corpus)
        except ParameterError:
            continue
        if other != "published":
            return part, corpus
    pytest.fail(f"{name} suits no corpus")


def room_of(name: str, stored: StoredCorpus, part: Any, seed: int = 0) -> Augmented:
    source = PromptSource(
        stored, range(len(stored.tokens)), chained({name: part}, stored.corpus, seed), lambda rows: rows
    )
    return Augmented.of(source, 8)


def trained(room: Augmented, update: int, ranks: int = 1, done: int = 0) -> list[Any]:
    """The batches of an update on so many processes, of a run that has made `done` updates."""
    found = []
    for rank in range(ranks):
        facts: Any = {"micro": 8 // ranks, "rank": rank, "ranks": ranks, "seed": 3, "updates_done": lambda: done}
        places = room.order(8, **facts).update_rows(update)
        found.append(room.__getitems__(places[rank * 8 // ranks : (rank + 1) * 8 // ranks]))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_follows_from_seed_and_update_alone(name: str, tmp_path: Path) -> None:
    part, corpus = made(name, tmp_path)
    stored = build(corpus)
    whole = trained(room_of(name, stored, part), 5)[0]
    halves = trained(room_of(name, stored, part), 5, ranks=2)
    resumed = trained(room_of(name, stored, part), 5, done=5)[0]
    for key in ("input_ids", "positions", "labels"):
        assert torch.equal(whole[key], torch.cat([half[key] for half in halves]))
        assert torch.equal(whole[key], resumed[key])
    different = [trained(room_of(name, stored, part, seed), 5)[0]["input_ids"] for seed in range(3)]
    assert not all(torch.equal(different[0], other) for other in different[1:])


@pytest.mark.parametrize("name", NAMES)
def test_answers_stay_and_prompts_are_words_that_are_known_and_none_of_a_held_out_split(
    name: str, tmp_path: Path
) -> None:
    part, corpus = made(name, tmp_path)
    stored = build(corpus)
    held_out = {tuple(row) for split in stored.held_out for block in stored.blocks(split) for row in block.prompts}
    room, changes = room_of(name, stored, part), 0
    pad = stored.tokens.index(PAD)
    order = room.order(8, micro=8, rank=0, ranks=1, seed=3, updates_done=lambda: 0)
    for update in range(30):
        places = order.update_rows(update)
        for place, row in zip(places.tolist(), super(type(order), order).update_rows(update).tolist()):
            length, answer = int(room.prompt_N[place]), int(room.answer_N[place])
            true = room.source.rows
            start = int(true.prompt_N[row])
            before = true.tokens_NT[row, : start + answer].tolist()
            after = room.tokens_NT[place, : length + answer].tolist()
            assert 1 <= length <= start and answer == int(true.answer_N[row])
            assert after[length:] == before[start:] and max(after) < len(stored.tokens) and pad not in after
            assert tuple(after[:length]) not in held_out
            assert (room.tokens_NT[place, length + answer :] == pad).all()
            changes += after != before
    assert changes


def test_a_change_into_a_held_out_prompt_is_undone(tmp_path: Path) -> None:
    stored = build(load("corpora", "group", "").tiny(tmp_path))
    held_out = next(stored.blocks("id")).prompts[0]

    def change(prompts: Prompts, update: int) -> Prompts:
        return prompts._replace(tokens=np.broadcast_to(held_out, prompts.tokens.shape))

    source = PromptSource(stored, range(len(stored.tokens)), change, lambda rows: rows)
    index = torch.arange(6)
    assert torch.equal(source.changed(index, 0).tokens_NT, source.plain(index).tokens_NT)


def test_one_that_lengthens_a_prompt_is_an_error(tmp_path: Path) -> None:
    class Longer(Collator):
        def __call__(self, prompts: Prompts, corpus: Corpus, draws: Any) -> Prompts:
            return prompts._replace(length=prompts.length + 1)

    stored = build(load("corpora", "group", "").tiny(tmp_path))
    source = PromptSource(
        stored, range(len(stored.tokens)), chained({"longer": Longer()}, stored.corpus, 0), Rows.whole
    )
    with pytest.raises(ValueError, match="collator longer: made a prompt empty or longer"):
        source.changed(torch.arange(3), 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_with_it_resumes_to_the_same_weights_and_is_another_than_without(name: str, tmp_path: Path) -> None:
    part, corpus = made(name, tmp_path)
    facts = {"corpus": {"name": room_name(corpus), **corpus.as_dict()}, "collator": {name: part.as_dict()}}
    body = [line for line in RECIPE.splitlines() if not line.startswith("corpus:")]
    text = "\n".join([dump(facts), *body]).replace("n_positions: 8", "n_positions: 128")
    path = write_recipe(tmp_path, text)
    short = ("--max_steps", "12", "--global_batch_size", "8", "--checkpoints.every", "[[12, null]]")
    straight, parts, slow = (tmp_path / kind for kind in ("straight", "parts", "slow"))
    assert run_here(path, *short, "--output_dir", str(straight)) == 0
    assert run_here(path, *short, "--max_steps", "7", "--output_dir", str(parts)) == 0
    assert run_here(path, *short, "--output_dir", str(parts)) == 0
    final = FINAL.replace("24", "12")
    assert same_weights(parts / final, straight / final)
    # The Trainer's own loop, in two micro-batches, sees the same rows.
    words = [*short, "--fast", "false", "--per_device_train_batch_size", "4", "--model.dropout", "0"]
    batches = []
    for kind in ("true", "false"):
        trainer = prepare(read_recipe(path, [*words, "--fast", kind, f"--output_dir={slow}-{kind}"]))
        order: Any = trainer.get_train_dataloader().batch_sampler
        batches.append(torch.cat([trainer.train_rows.__getitems__(places)["input_ids"] for places in list(order)[:2]]))
    assert torch.equal(*batches)
    assert run_here(path, *short, "--collator", "{}", "--output_dir", str(straight)) == 2


def test_mistakes_are_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    for words, said in {
        "--collator.span_dorp={}": "there is no collator 'span_dorp'; did you mean span_drop?",
        "--collator.span_drop.p=2": "collator.span_drop.p: 2 is not a number > 0 and < 1",
        "--collator.span_drop={}": "collator.span_drop.corpus: group has no spans",
    }.items():
        assert run_here(path, words) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
