"""A base that has the word which ends an answer, under any role: text is ids, and generation ends with the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from pipeline.config.recipe import read_recipe
from pipeline.corpora.store import as_text, build
from tests.bases import END, make_tokenizer
from tests.read_runs import CORPORA
from tests.tiny import RECIPE, run_here, write_recipe

# The word that ends an answer, and a corpus that has it.
ENDED = {"</a>": CORPORA["composition"], "<eos>": CORPORA["group_eos"]}


def base_with(folder: Path, word: str, role: str) -> Path:
    """A small GPT-2 whose tokenizer has a word under a role."""
    state, end = make_tokenizer().backend_tokenizer.to_str(), END
    if role == "end of text":
        state, end = state.replace(END, word), word
    if role == "plain":  # made of its parts, as any word
        facts = json.loads(state)
        vocabulary = facts["model"]["vocab"]
        for length in range(2, len(word) + 1):
            vocabulary.setdefault(word[:length], len(vocabulary))
            facts["model"]["merges"].append([word[: length - 1], word[length - 1]])
        state = json.dumps(facts)
    tokenizer = Tokenizer.from_str(state)
    if role == "added":
        tokenizer.add_tokens([word])
    if role in ("special", "stripping special"):
        strips = role == "stripping special"
        tokenizer.add_special_tokens([AddedToken(word, special=True, rstrip=strips, single_word=strips)])
    loaded = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)
    torch.manual_seed(0)
    ends = {"bos_token_id": loaded.eos_token_id, "eos_token_id": loaded.eos_token_id}
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(loaded), **sizes, **ends)).save_pretrained(folder)
    loaded.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("word", "role"),
    [
        *(("</a>", role) for role in ("end of text", "plain")),
        *(("<eos>", role) for role in ("end of text", "special", "stripping special", "added")),
    ],
)
def test_an_answer_ends_with_a_word_that_the_base_has(word: str, role: str, tmp_path: Path) -> None:
    base = base_with(tmp_path / "base", word, role)
    known = AutoTokenizer.from_pretrained(base).get_vocab()
    text = RECIPE.replace(CORPORA["group"], ENDED[word]).replace(
        "{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}",
        f"{{model_name_or_path: {base}, vocabulary: tokens}}",
    )
    path = write_recipe(tmp_path, text.replace("max_steps: 24", "max_steps: 60"))
    assert run_here(path, "--save_steps", "60", "--eval_steps", "60", "--callbacks.console.style", "off") == 0
    step = tmp_path / "run" / "steps" / "step60"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(step).eval(), AutoTokenizer.from_pretrained(step)
    # The word is the base's own token, and text is ids.
    end = tokenizer.get_vocab()[word]
    assert end == known[word]
    stored = build(read_recipe(path).corpus)
    ids = [tokenizer.get_vocab()[token] for token in stored.tokens]
    block = next(stored.blocks("train"))
    prompts = as_text(stored, block.prompts[:40]).to_pylist()
    answers = as_text(stored, block.answers[:40]).to_pylist()
    expected = [[ids[token] for token in row] for row in block.prompts[:40].tolist()]
    rows = [row + [ids[token] for token in answer] for row, answer in zip(expected, block.answers[:40].tolist())]
    assert tokenizer(prompts)["input_ids"] == expected and {row[-1] for row in rows} == {end}
    texts = [stored.corpus.separator.join(pair) for pair in zip(prompts, answers)]
    assert tokenizer(texts)["input_ids"] == rows
    # The model has learned that an answer ends, and so does its text.
    told = GenerationConfig.from_pretrained(step).eos_token_id
    assert end in (told if isinstance(told, list) else [told])
    write = pipeline("text-generation", model=str(step))
    for prompt, text, row in zip(prompts[:5], expected, rows):
        generated = model.generate(torch.tensor([text]), max_new_tokens=12, do_sample=False)[0].tolist()
        assert len(generated) == len(row) and generated[-1] == end
        written = write(prompt, max_new_tokens=12, do_sample=False, return_full_text=False)[0]["generated_text"]
        assert written.split() == tokenizer.decode(generated[len(text) :], skip_special_tokens=True).split()
