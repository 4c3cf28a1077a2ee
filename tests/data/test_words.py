"""What a model is trained on is what its saved tokenizer makes of the text, or the run is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from pipeline.corpora.base import Corpus
from pipeline.corpora.composition import Composition
from pipeline.corpora.group import Group
from pipeline.corpora.store import as_text, build
from pipeline.data.words import check_text
from pipeline.models.gpt2 import Gpt2
from pipeline.models.pretrained import Pretrained
from pipeline.utils.errors import ParameterError
from tests.bases import END, make_tokenizer

SUMS = Group(group="Z23", template="a b = c")  # whose words, one or two digits and =, the bases have in part
PRODUCTS = Group(group="S3", operation="*")
FACTS = Composition(num_entities=30, num_relations=6, out_degree=4, ratio=2, ood_fraction=0.2)


def _plain(state: dict) -> None:
    pass


def _with_holes(state: dict) -> None:
    vocabulary = state["model"]["vocab"]
    gone = {word for word, number in vocabulary.items() if 300 <= number < 310}
    state["model"]["merges"] = [pair for pair in state["model"]["merges"] if not gone & {*pair, "".join(pair)}]
    for word in gone:
        del vocabulary[word]


def _with_a_beginning(state: dict) -> None:
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(f"{END} $A", f"{END} $A $B", [(END, 0)])
    state.update(json.loads(tokenizer.to_str()))


def _lower_case(state: dict) -> None:
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    state.update(json.loads(tokenizer.to_str()))


def _with_a_space_before(state: dict) -> None:
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    state.update(json.loads(tokenizer.to_str()))


def _with_runs_of_spaces(state: dict) -> None:
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(2, 9)])
    state.update(json.loads(tokenizer.to_str()))


def changed(base: Path, folder: Path, change: Callable[[dict], None]) -> Path:
    """A base with another tokenizer."""
    state = json.loads(make_tokenizer().backend_tokenizer.to_str())
    change(state)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(512)
    model.save_pretrained(folder)
    whole = Tokenizer.from_str(json.dumps(state))
    PreTrainedTokenizerFast(tokenizer_object=whole, bos_token=END, eos_token=END).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("corpus", [SUMS, PRODUCTS, FACTS], ids=["sums", "products", "facts"])
@pytest.mark.parametrize(
    "change", [_plain, _with_holes, _with_a_beginning, _lower_case, _with_a_space_before, _with_runs_of_spaces]
)
def test_the_text_of_every_row_is_read_as_its_ids(
    change: Callable[[dict], None], corpus: Corpus, bases: Path, tmp_path: Path
) -> None:
    base, stored = changed(bases / "gpt2", tmp_path / "base", change), build(corpus)
    model_of = Pretrained(str(base), vocabulary="tokens")
    check_text(stored, model_of.tokenizer(stored), model_of.token_ids(stored), "corpus")
    model_of.tokenizer(stored).save_pretrained(tmp_path / "saved")
    saved, own = AutoTokenizer.from_pretrained(tmp_path / "saved"), AutoTokenizer.from_pretrained(base)
    for split in stored.sizes:
        rows = model_of.rows(stored, split)
        texts, halves = list[str](), list[str]()
        for block in stored.blocks(split):
            prompts, answers = (as_text(stored, part).to_pylist() for part in (block.prompts, block.answers))
            texts += [stored.corpus.separator.join(pair) for pair in zip(prompts, answers)]
            halves += prompts
        lengths = (rows.prompt_N + rows.answer_N).tolist()
        assert saved(texts)["input_ids"] == [row[:n] for row, n in zip(rows.tokens_NT.tolist(), lengths)]
        assert saved(halves)["input_ids"] == [row[:n] for row, n in zip(rows.tokens_NT.tolist(), rows.prompt_N)]
    # The base's own words keep their ids, and no id stands for two of them.
    ours, theirs = saved.get_vocab(), own.get_vocab()
    assert theirs.items() <= ours.items() and len({*ours.values()}) == len(ours)
    added = model_of.added(stored)
    assert {*ours.values()} - {*theirs.values()} == {*added} and added.start == max(theirs.values()) + 1
    torch.manual_seed(0)
    before, after = AutoModelForCausalLM.from_pretrained(base), model_of.for_corpus(stored)
    old = [number for word, number in theirs.items()]
    assert after.get_input_embeddings().weight[old].equal(before.get_input_embeddings().weight[old])


@pytest.mark.parametrize("words", [{"<e_1>": "e 1"}, {"<e_1>": "e1", "<e_2>": "e2"}, {"<e_1>": "<e_2><e_3>"}])
def test_words_that_cannot_be_read_are_refused(words: dict[str, str], bases: Path) -> None:
    stored = build(FACTS)
    odd = dataclasses.replace(
        stored, tokens=[words.get(word, word) for word in stored.tokens], content_hash="".join(words)
    )
    for model_of in (Gpt2(), Pretrained(str(bases / "gpt2"), vocabulary="tokens")):
        try:
            check_text(odd, model_of.tokenizer(odd), model_of.token_ids(odd), "corpus")
        except ParameterError as error:
            assert str(error).startswith("corpus: the text ") and "is read as the tokens" in str(error)
            continue
        # Where it is not refused, all rows are right.
        tokenizer, ids = model_of.tokenizer(odd), model_of.token_ids(odd)
        for block in odd.blocks("train"):
            for text, row in zip(as_text(odd, block.prompts).to_pylist(), block.prompts.tolist()):
                assert tokenizer(text)["input_ids"] == [ids[token] for token in row]


def test_what_is_proved_word_by_word_holds_for_all_rows(monkeypatch: pytest.MonkeyPatch, bases: Path) -> None:
    from pipeline.data import words

    found = []
    cuts = words._cuts_words
    monkeypatch.setattr(words, "_cuts_words", lambda *inputs: found.append(cuts(*inputs)))  # so that all are tokenized
    for corpus in (SUMS, PRODUCTS, FACTS):
        stored = build(corpus)
        for model_of in (Gpt2(), Pretrained(str(bases / "gpt_neox"), vocabulary="tokens")):
            check_text(stored, model_of.tokenizer(stored), model_of.token_ids(stored), "corpus")
    assert found == [True] * 6


@pytest.mark.parametrize("gap", [" ", "   "])
def test_prompts_of_text_are_read_alone_as_in_their_rows(gap: str, bases: Path) -> None:
    stored = build(SUMS)
    model_of = Pretrained(str(bases / "gpt2"), templates={"default": f"the {{p0}} + {{p1}} is{gap}{{answer}}"})
    rows, tokenizer = model_of.rows(stored, "train"), AutoTokenizer.from_pretrained(bases / "gpt2")
    prompts, answers = (
        [row for block in stored.blocks("train") for row in as_text(stored, part(block)).to_pylist()]
        for part in (lambda block: block.prompts, lambda block: block.answers)
    )
    for number, (prompt, answer) in enumerate(zip(prompts, answers)):
        row, head, tail = (part[number].tolist() for part in (rows.tokens_NT, rows.prompt_N, rows.answer_N))
        first, second, _ = prompt.split()
        assert tokenizer(f"the {first} + {second} is{gap}{answer}")["input_ids"] == row[: head + tail]
        assert tokenizer(f"the {first} + {second} is")["input_ids"] == row[:head]
    joined = Pretrained(str(bases / "gpt2"), templates={"default": "the {p0} + {p1} c{answer}", "x": "the c {answer}"})
    nouns = dataclasses.replace(stored, tokens=["at" if word == "1" else word for word in stored.tokens])
    with pytest.raises(ParameterError, match=r"model\.templates: .* is read as .* write a space before"):
        joined.rows(nouns, "train")
