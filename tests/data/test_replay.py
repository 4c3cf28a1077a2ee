"""Text that is replayed beside a corpus: streamed, the same on any number of processes, and where a run is resumed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from pipeline.config.recipe import read_recipe
from pipeline.data.labels import IGNORED
from pipeline.data.replay import Replay
from pipeline.data.rows import Rows
from pipeline.data.stream import PLACES, Replayed
from pipeline.runs.metrics import read_history
from pipeline.training.session import prepare
from pipeline.utils.errors import ParameterError
from tests.bases import logged, make_tokenizer, recipe_of, sentences
from tests.kills import Runner
from tests.tiny import ROOT, run_here, write_recipe

LENGTH = 16


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer()


def corpus_rows(count: int) -> Rows:
    """Rows that text has no tokens for, so that they are known among it."""
    ones = torch.ones(count, dtype=torch.int64)
    return Rows(torch.full((count, 5), -1), ones, ones)


def mixed(source: str, ratio: float, count: int, batch: int, tokenizer: PreTrainedTokenizerBase) -> Replayed:
    rows = Replay(source, length=LENGTH, ratio=ratio, by="rows").mixed_with(corpus_rows(count), tokenizer, batch)
    assert isinstance(rows, Replayed)
    return rows


def drawn(rows: Replayed, batch: int, updates: range) -> list[tuple[int, list[list[int]]]]:
    """Of each update, how many rows are the corpus's, and the rows of text, as a run that begins there takes them."""
    done = updates.start
    order = rows.order(batch, micro=batch, rank=0, ranks=1, seed=3, updates_done=lambda: done)
    found = []
    for update in updates:
        done = update
        tokens_BT = rows.tokens_NT[order.update_rows(update)]
        text = [row for row in tokens_BT.tolist() if row[0] >= 0]
        found.append((batch - len(text), text))
    return found


def endless(path: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """The rows of a file's text without end."""
    ids = [token for line in path.read_text().splitlines() for token in [*tokenizer(line)["input_ids"], 0]]
    stream = itertools.cycle(ids)
    while True:
        yield list(itertools.islice(stream, LENGTH))


@given(count=st.integers(2, 40), share=st.floats(0.1, 1), ratio=st.floats(0.05, 0.9), begin=st.integers(0, 12))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_takes_row_after_row_of_the_text(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, count: int, share: float, ratio: float, begin: int
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(sentences(30, 1))
    batch = max(1, round(share * count))
    rows, text = mixed(str(path), ratio, count, batch, tokenizer), endless(path, tokenizer)
    assert len(rows) == count + max(1, round(count * ratio / (1 - ratio)))
    straight = drawn(rows, batch, range(20))
    for _, part in straight:
        assert part == list(itertools.islice(text, len(part)))
    # Resumed from what a checkpoint says, from what an older one says, and from nothing.
    before = mixed(str(path), ratio, count, batch, tokenizer)
    drawn(before, batch, range(begin))
    before.stream.save(path.parent)
    again = mixed(str(path), ratio, count, batch, tokenizer)
    again.stream.resume(path.parent)
    assert drawn(again, batch, range(begin, 20)) == straight[begin:]
    again = mixed(str(path), ratio, count, batch, tokenizer)
    assert drawn(again, batch, range(begin, 20)) == straight[begin:]


def test_every_pass_shows_the_corpus_once_beside_its_share_of_text(
    bases: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = mixed(str(bases / "replay.txt"), 0.25, 30, 10, tokenizer)
    assert len(rows) == 40
    for start in range(0, 16, 4):  # passes of four updates
        parts = drawn(rows, 10, range(start, start + 4))
        assert sum(corpus for corpus, _ in parts) == 30
    batch = rows.__getitems__(torch.tensor([0, 30]))
    assert (batch["labels"] != IGNORED).sum(1).tolist() == [1, LENGTH - 1]  # all tokens of the text are trained


def test_a_text_without_end_is_read_as_far_as_it_is_needed(tokenizer: PreTrainedTokenizerBase) -> None:
    seen = []

    class Endless(Replay):
        def documents(self, skip: int = 0) -> Iterator[tuple[int, str]]:
            for number in itertools.count(skip):
                seen.append(number)
                yield number, "the old cat sees the river near a red house ."

    endless = Endless("endless", length=LENGTH, ratio=0.5, by="rows")
    rows = endless.mixed_with(corpus_rows(1000), tokenizer, 8)
    assert isinstance(rows, Replayed)
    assert rows.tokens_NT.shape == (1000 + 2 * 8, LENGTH)  # whatever the text, and the ratio
    drawn(rows, 8, range(300))
    needed = 300 * 8 // 2 * LENGTH // 11  # documents of 11 tokens
    assert len(seen) < 1.3 * needed


@pytest.mark.parametrize(("count", "answer", "ratio"), [(1000, 1, 0.1), (1000, 3, 0.5), (400, 2, 0.8)])
def test_the_ratio_counts_the_tokens_that_are_trained(
    bases: Path, tokenizer: PreTrainedTokenizerBase, count: int, answer: int, ratio: float
) -> None:
    ones = torch.ones(count, dtype=torch.int64)
    corpus = Rows(torch.full((count, 5), -1), ones, ones * answer)
    rows = Replay(str(bases / "replay.txt"), length=LENGTH, ratio=ratio).mixed_with(corpus, tokenizer, 8)
    assert isinstance(rows, Replayed)
    trained = (rows.__getitems__(torch.arange(count + 1))["labels"] != IGNORED).sum(1)  # the last one is text
    text = (len(rows) - count) * int(trained[-1])
    assert text / (text + int(trained[:-1].sum())) == pytest.approx(ratio, rel=0.05)
    with pytest.raises(
        ParameterError, match=r"replay\.length: 64 is too long for a ratio of 0\.05: .* trains 3 tokens"
    ):
        Replay(str(bases / "replay.txt"), ratio=0.05).mixed_with(corpus_rows(3), tokenizer, 2)


def test_the_share_of_the_loss_that_is_text_is_logged(bases: Path, tmp_path: Path) -> None:
    replay = f"\nreplay: {{source: {bases / 'replay.txt'}, ratio: 0.4, length: 32}}\n"
    text = recipe_of(bases, "gpt_neox", more=replay).replace("logging_steps: 3", "logging_steps: 1")
    path = write_recipe(tmp_path, text)
    assert run_here(path, "--max_steps", "1") == 0
    trainer = prepare(read_recipe(path, [f"--output_dir={tmp_path / 'again'}"]))
    rows_B = trainer.get_train_dataloader().batch_sampler.update_rows(0)
    rows = trainer.train_rows
    base = AutoModelForCausalLM.from_pretrained(bases / "gpt_neox").eval()
    losses = {True: 0.0, False: 0.0}
    for row in rows_B.tolist():
        first, answer = int(rows.prompt_N[row]), int(rows.answer_N[row])
        tokens = rows.tokens_NT[row, : first + answer]
        with torch.no_grad():
            logits = base(tokens[None]).logits[0, first - 1 : -1]
        is_text = answer == 31 and first == 1
        losses[is_text] += torch.nn.functional.cross_entropy(logits, tokens[first:], reduction="sum").item()
    assert losses[True] > 0
    share = losses[True] / sum(losses.values())
    assert logged(tmp_path / "run", "replay_loss_share")[1] == pytest.approx(share, rel=1e-4)


def test_replay_keeps_more_of_the_base_and_resumes_to_the_same_bits(bases: Path, tmp_path: Path) -> None:
    replay = f"\nreplay: {{source: {bases / 'replay.txt'}, ratio: 0.5, by: rows, length: 32}}\n"
    perplexities = {}
    for name, more in {"without": "", "with": replay}.items():
        path = write_recipe(tmp_path, recipe_of(bases, "gpt_neox", more=more), name)
        assert run_here(path, "--output_dir", str(tmp_path / name)) == 0
        perplexities[name] = logged(tmp_path / name, "base_perplexity")
    assert perplexities["with"][0] == perplexities["without"][0] < 60  # it knows the language; a guess has 400
    assert perplexities["with"][24] < perplexities["without"][24]
    assert perplexities["without"][24] > 1.5 * perplexities["without"][0]

    places = json.loads((tmp_path / "with" / "checkpoint-24" / PLACES).read_text())
    assert len(places) <= 8 and max(map(int, places)) > 8
    for steps in ("13", "24"):
        assert run_here(path, "--output_dir", str(tmp_path / "again"), "--max_steps", steps) == 0
    ours, theirs = (load_file(tmp_path / name / "steps" / "step24" / "model.safetensors") for name in ("again", "with"))
    assert all(ours[key].equal(theirs[key]) for key in theirs)


@pytest.mark.parametrize("config", ["cpu", pytest.param("zero2", marks=pytest.mark.slow)])
def test_two_processes_replay_what_one_does(config: str, bases: Path, tmp_path: Path) -> None:
    replay = f"\nreplay: {{source: {bases / 'replay.txt'}, ratio: 0.5, by: rows, length: 32}}\n"
    text = recipe_of(bases, "gpt_neox", more=replay).replace("logging_steps: 3", "logging_steps: 1")
    text += "per_device_train_batch_size: 4\n"
    recipe = write_recipe(tmp_path, text)
    assert run_here(recipe, "--output_dir", str(tmp_path / "one")) == 0
    runner = Runner(recipe, 2, config=ROOT / "accelerate_configs" / f"{config}.yaml")
    Runner(recipe, 2, ("--max_steps", "13"), config=runner.config).run(tmp_path / "two")
    runner.run(tmp_path / "two")  # goes on in the middle of a pass
    assert json.loads((tmp_path / "two" / "environment.json").read_text())[0]["processes"] == 2
    for key in ("loss", "base_perplexity"):
        one, two = (
            {line["step"]: line[key] for line in read_history(tmp_path / name) if key in line}
            for name in ("one", "two")
        )
        two.pop(13, None)
        assert two == pytest.approx({step: one[step] for step in two}, rel=2e-5) and len(two) > 3
