"""Continued pretraining, for real: small bases in folders, as text and as tokens, from a run, and with parts frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.recipe import read_recipe
from pipeline.corpora.store import build
from pipeline.models.loading import RENAMED
from pipeline.models.pretrained import Pretrained
from pipeline.runs.manifest import Manifest
from pipeline.training.session import prepare, train
from tests.bases import TEXT, logged, recipe_of
from tests.kills import Runner
from tests.tiny import COMPOSITION, RECIPE, ROOT, run_here, write_recipe


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_it_begins_with_the_base_s_weights_and_words(bases: Path, family: str, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path, recipe_of(bases, family)), [f"--output_dir={tmp_path / 'run'}"])
    trainer = prepare(recipe)
    base = load_file(bases / family / "model.safetensors")
    state = trainer.model.state_dict()
    assert all(
        state[name if name in state else f"{RENAMED[name[:-7]]}.weight"].equal(weight) for name, weight in base.items()
    )
    tokenizer, row = AutoTokenizer.from_pretrained(bases / family), trainer.splits["id"]
    length, answer = int(row.prompt_N[0]), int(row.answer_N[0])
    text = tokenizer.decode(row.tokens_NT[0, : length + answer])
    # The words of the template with those of the fact, and the space before the answer with the answer.
    assert text.startswith("the r_") and " of the r_" in text and " is e_" in text and "<" not in text
    assert tokenizer.decode(row.tokens_NT[0, :length]).endswith(" is")
    assert tokenizer(text)["input_ids"] == row.tokens_NT[0, : length + answer].tolist()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("new", ["mean", "normal"])
def test_words_become_tokens_whose_embeddings_are_drawn_as_asked(bases: Path, family: str, new: str) -> None:
    stored = build(read_recipe(write_recipe(bases, COMPOSITION, f"{family}-{new}")).corpus)
    model_of = Pretrained(str(bases / family), vocabulary="tokens", new_embeddings=new)
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(model_of.for_corpus(stored))
    base, tokenizer = AutoModelForCausalLM.from_pretrained(bases / family), model_of.tokenizer(stored)
    size = len(AutoTokenizer.from_pretrained(bases / family))
    ids = model_of.token_ids(stored)
    assert len(set(ids)) == len(stored.tokens) and min(ids) >= size
    for part in ("get_input_embeddings", "get_output_embeddings"):
        old, now = getattr(base, part)().weight[:size], getattr(models[0], part)().weight
        assert now[:size].equal(old) and now.equal(getattr(models[1], part)().weight)
        added = now[size : len(tokenizer)]
        assert len(added) == len(stored.tokens) and len(added.unique(dim=0)) == len(added)
        if new == "mean":
            spread = 0.1 * old.std(0).mean().item()
            assert (added - old.mean(0)).std().item() == pytest.approx(spread, rel=0.3)
        else:
            assert added.std().item() == pytest.approx(0.02, rel=0.15)
    assert models[0].config.vocab_size == len(models[0].get_input_embeddings().weight) >= len(tokenizer)
    tied = models[0].get_input_embeddings().weight is models[0].get_output_embeddings().weight
    assert tied == (family == "gpt2")
    rows = model_of.rows(stored, "id")
    text = tokenizer.decode(rows.tokens_NT[0, : int(rows.prompt_N[0])])
    assert tokenizer(text)["input_ids"] == rows.tokens_NT[0, : int(rows.prompt_N[0])].tolist()


def test_frozen_parts_stay_as_they_are(bases: Path, tmp_path: Path) -> None:
    freeze = "vocabulary: text, freeze: ['transformer.wte*', '*.attn.*'], " + TEXT
    assert run_here(write_recipe(tmp_path, recipe_of(bases, "gpt2", freeze)), "--max_steps", "4") == 0
    base = load_file(bases / "gpt2" / "model.safetensors")
    kept = load_file(tmp_path / "run" / "steps" / "step4" / "model.safetensors")
    same = {name for name in base if kept[name].equal(base[name])}
    assert same == {name for name in base if name.startswith("transformer.wte") or ".attn." in name}


def test_all_tokens_are_trained_where_asked(bases: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, recipe_of(bases, "gpt2"))
    rows = {
        kind: prepare(read_recipe(path, [f"--output_dir={tmp_path / kind}", f"--objective.tokens={kind}"])).train_rows
        for kind in ("answer", "all")
    }
    lengths = rows["answer"].prompt_N + rows["answer"].answer_N
    assert (rows["all"].prompt_N == 1).all() and (rows["all"].answer_N == lengths - 1).all()
    batch = rows["all"].__getitems__(torch.arange(4))
    for row, labels in zip(rows["all"].tokens_NT[:4], batch["labels"]):
        real = labels >= 0
        assert labels[real].equal(row[1 : 1 + int(real.sum())])


def test_a_stage_starts_from_the_grokked_step_of_the_last(tmp_path: Path) -> None:
    assert run_here(write_recipe(tmp_path), "--callbacks.console.style", "off") == 0
    run = tmp_path / "run"
    manifest = Manifest.load(run)
    assert manifest.finished is not None
    manifest.finished = {**manifest.finished, "gen_step": 9}  # kept next is 10
    manifest.save(run)
    corpus = "{name: group, group: Z13, train_fraction: 0.5, template: a b = c}"
    first = "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}"
    text = RECIPE.replace(first, corpus).replace(
        "{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}",
        f"{{model_name_or_path: {run}, revision: grok, vocabulary: tokens}}",
    )
    path = write_recipe(tmp_path, text, "second")
    trainer = prepare(read_recipe(path, [f"--output_dir={tmp_path / 'second'}"]))
    kept = load_file(run / "steps" / "step10" / "model.safetensors")["transformer.wte.weight"]
    now = trainer.model.get_input_embeddings().weight
    # Words that it knew have their rows; 11 and 12 are new.
    assert now[: len(kept)].equal(kept) and len(now) == len(kept) + 2
    train(trainer)
    assert (tmp_path / "second" / "steps" / "step24" / "tokenizer.json").is_file()


def test_a_base_is_continued_under_zero3(bases: Path, tmp_path: Path) -> None:
    text = recipe_of(bases, "gpt_neox", "vocabulary: tokens")
    recipe = write_recipe(tmp_path, text.replace("logging_steps: 3", "logging_steps: 1") + "max_eval_samples: 50\n")
    words = ("--max_steps", "6")
    assert run_here(recipe, *words, "--output_dir", str(tmp_path / "one")) == 0
    Runner(recipe, 2, words, config=ROOT / "accelerate_configs" / "zero3.yaml").run(tmp_path / "two")
    for step, close in ((0, 1e-7), (6, 1e-4)):
        one, two = (
            load_file(tmp_path / name / "steps" / f"step{step}" / "model.safetensors") for name in ("one", "two")
        )
        assert one.keys() == two.keys()
        assert all(torch.allclose(two[key], weight, atol=close) for key, weight in one.items())
    assert logged(tmp_path / "two", "eval_id_loss") == pytest.approx(logged(tmp_path / "one", "eval_id_loss"), rel=1e-4)


def test_generation_ends_with_the_corpus_s_answer_and_with_the_base_s_text(bases: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, recipe_of(bases, "gpt2", "vocabulary: tokens"))
    assert run_here(recipe, "--max_steps", "2") == 0
    step, tokenizer = tmp_path / "run" / "steps" / "step2", AutoTokenizer.from_pretrained(tmp_path / "run/tokenizer")
    model, prompt = AutoModelForCausalLM.from_pretrained(step), torch.tensor([tokenizer("e_1 r_2")["input_ids"]])
    ends = [tokenizer.eos_token_id, tokenizer.get_vocab()["</a>"]]
    assert model.generation_config.eos_token_id == ends
    for end, length in zip((*ends, 5), (1, 1, 4)):

        def says(ids: torch.Tensor, scores: torch.Tensor, end: int = end) -> torch.Tensor:
            return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([end]), 0)

        out = model.generate(prompt, max_new_tokens=4, do_sample=False, logits_processor=[says])
        assert out.shape[1] == prompt.shape[1] + length
