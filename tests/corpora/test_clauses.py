"""Questions and tenses: rules that need structure or order alone, applied to the words and compared with the rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.corpora._clauses import ClauseCorpus, leaves, spans, templates
from pipeline.corpora.base import Choosing, Parsed
from pipeline.corpora.question_formation import QuestionFormation
from pipeline.corpora.store import StoredCorpus, build
from pipeline.corpora.tense_reinflection import TenseReinflection
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import Fact, facts

AUXILIARIES = ("does", "doesn't", "do", "don't")
CLAUSE, PREPOSITIONS = ("who", "that"), ("around", "near", "with", "upon", "by", "behind", "above", "below")
DETERMINERS = ("the", "some", "my", "your", "our", "her")
SIZES = {"train_rows": 4000, "id_rows": 300, "gen_rows": 600}


@pytest.fixture(scope="module")
def questions() -> StoredCorpus:
    return build(QuestionFormation(**SIZES))


@pytest.fixture(scope="module")
def tenses() -> StoredCorpus:
    return build(TenseReinflection(**SIZES))


def sentence(fact: Fact) -> list[str]:
    assert fact.prompt[0] == "<s>" and fact.prompt[-2] == "." and fact.prompt[-1] == fact.type
    return list(fact.prompt[1:-2])


def subject(words: list[str], is_verb: list[bool]) -> int:
    """Words of the subject: up to the first verb, or where a clause follows its noun, up to the second."""
    verbs = [place for place, verb in enumerate(is_verb) if verb]
    return verbs[1] if words[2] in CLAUSE else verbs[0]


def question(words: list[str], place: int) -> tuple[str, ...]:
    return (words[place], *words[:place], *words[place + 1 :], "?", "<eos>")


def test_questions_move_the_main_auxiliary_and_only_gen_tells_it_from_the_first(questions: StoredCorpus) -> None:
    linear = {split: [] for split in questions.sizes}
    for split in questions.sizes:
        for fact in facts(questions, split):
            words = sentence(fact)
            if fact.type == "decl":
                assert fact.answer == (*words, ".", "<eos>")
                continue
            is_auxiliary = [word in AUXILIARIES for word in words]
            main, first = subject(words, is_auxiliary), is_auxiliary.index(True)
            assert fact.answer == question(words, main)
            linear[split].append((fact.answer[0] == words[first], fact.answer == question(words, first)))
            if split == "gen":
                assert words[2] in CLAUSE and is_auxiliary.count(True) == 2
                assert not set(words[main:]) & set(CLAUSE)
            else:
                assert words[2] not in CLAUSE
    assert not np.any(linear["gen"]) and np.all(linear["train"]) and np.all(linear["id"])
    assert len(linear["gen"]) == 600 == questions.sizes["gen"]


def test_shares_of_questions_and_of_forms(questions: StoredCorpus) -> None:
    """As in the files of the authors, 0.4 are questions; a third of the subjects of statements have each form."""
    rows = facts(questions, "train")
    assert np.mean([fact.type == "quest" for fact in rows]) == pytest.approx(0.4, abs=0.03)
    third = [words[2] for fact in rows if fact.type == "decl" for words in [sentence(fact)]]
    for kind in (AUXILIARIES, PREPOSITIONS, CLAUSE):
        assert np.mean([word in kind for word in third]) == pytest.approx(1 / 3, abs=0.04)
    words = {
        word for split in questions.sizes for fact in facts(questions, split) for word in (*fact.prompt, *fact.answer)
    }
    assert len(words - {"<s>", "<eos>"}) == 68  # of the paper's vocabulary


def test_auxiliaries_agree_with_their_nouns(questions: StoredCorpus) -> None:
    for fact in facts(questions, "gen")[:300]:
        words = sentence(fact)
        main = subject(words, [word in AUXILIARIES for word in words])
        assert (words[main] in AUXILIARIES[2:]) == words[1].endswith("s") or words[1] in ("tyrannosaurus", "walrus")


def is_present(word: str) -> bool:
    verbs = "giggle smile sleep swim wait move change read eat entertain amuse high_five applaud confuse admire accept"
    return word.removesuffix("s") in (*verbs.split(), "remember", "comfort")


def is_plural(noun: str) -> bool:
    return noun.endswith("s") and noun not in ("tyrannosaurus", "walrus")


def test_verbs_agree_with_the_subject_and_only_gen_tells_it_from_the_last_noun(tenses: StoredCorpus) -> None:
    forms = []
    for split in tenses.sizes:
        for fact in facts(tenses, split):
            words = sentence(fact)
            if fact.type == "PAST":
                assert fact.answer == (*words, ".", "<eos>")
                continue
            assert fact.type == "PRESENT" and fact.answer[-2:] == (".", "<eos>")
            answer = list(fact.answer[:-2])
            verbs = [is_present(word) for word in answer]
            assert [a for a, verb in zip(answer, verbs) if not verb] == [a for a, verb in zip(words, verbs) if not verb]
            main = subject(answer, verbs)
            nouns = [word for before, word in itertools.pairwise(answer[:main]) if before in DETERMINERS]
            assert answer[main].endswith("s") != is_plural(nouns[0])
            assert (is_plural(nouns[-1]) == is_plural(nouns[0])) == (split != "gen")
            if split == "gen":
                forms.append(answer[2] in PREPOSITIONS)
    assert np.mean(forms) == pytest.approx(0.6, abs=0.06)  # 6,045 of 10,000 in the authors' file
    assert np.mean([fact.type == "PAST" for fact in facts(tenses, "train")]) == pytest.approx(0.583, abs=0.03)
    words = {word for split in tenses.sizes for fact in facts(tenses, split) for word in (*fact.prompt, *fact.answer)}
    assert len(words - {"<s>", "<eos>"}) == 98


@pytest.mark.parametrize("name", ["questions", "tenses"])
def test_what_is_asked_for(name: str, request: pytest.FixtureRequest) -> None:
    stored: StoredCorpus = request.getfixturevalue(name)
    corpus = stored.corpus
    assert isinstance(corpus, Choosing)
    rows = 0
    for block in stored.blocks("gen"):
        ((what, (places, among)),) = corpus.choices(block).items()
        words = [stored.tokens[token] for token in among]
        whole = np.hstack([block.prompts, block.answers])
        for row, place in zip(whole, places):
            (at,) = np.flatnonzero(place)
            answer = [stored.tokens[token] for token in row[block.prompts.shape[1] :]]
            if what == "first_auxiliary":
                assert at == block.prompts.shape[1] and sorted(words) == sorted(AUXILIARIES)
            else:
                assert at - block.prompts.shape[1] == subject(answer, list(map(is_present, answer)))
                assert len(words) == 36 and all(map(is_present, words))
            rows += 1
    assert rows == stored.sizes["gen"]
    asked = [bool(corpus.choices(block)) == (block.type in ("quest", "PRESENT")) for block in stored.blocks("train")]
    assert all(asked) and len({block.type for block in stored.blocks("train")}) == 2


def brackets(words: list[str]) -> str:
    """A sentence with brackets around its parts, by recursive descent over its words."""
    rest = list(words)

    def phrase() -> str:
        noun = f"({rest.pop(0)} {rest.pop(0)})"
        if rest and rest[0] in PREPOSITIONS:
            return f"({noun} ({rest.pop(0)} {phrase()}))"
        if rest and rest[0] in CLAUSE:
            who = rest.pop(0)
            inside = f"({phrase()} {verb(False)})" if rest[0] in DETERMINERS else verb(True)
            return f"({noun} ({who} {inside}))"
        return noun

    def verb(takes_object: bool) -> str:
        head = [rest.pop(0)] if rest[0] in AUXILIARIES else []
        main = rest.pop(0)
        if takes_object and rest and rest[0] in DETERMINERS:
            main = f"({main} {phrase()})"
        return f"({head[0]} {main})" if head else main

    return f"({phrase()} {verb(True)})"


@pytest.mark.parametrize("name", ["questions", "tenses"])
def test_parts_are_those_of_a_parse(name: str, request: pytest.FixtureRequest) -> None:
    stored: StoredCorpus = request.getfixturevalue(name)
    corpus = stored.corpus
    assert isinstance(corpus, Parsed)
    for block in stored.blocks("train"):
        sentences, parts = corpus.trees(block.take(slice(3)))
        for row, found in zip(sentences, parts):
            words = [stored.tokens[token] for token in row[1:]]
            opened, expected, place = [], [], 0
            for piece in brackets(words).replace("(", " ( ").replace(")", " ) ").split():
                if piece == "(":
                    opened.append(place)
                elif piece == ")":
                    expected.append((opened.pop(), place - 1))
                else:
                    place += 1
            assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("auxiliaries", [True, False])
def test_templates_are_the_grammar(auxiliaries: bool) -> None:
    every = templates(auxiliaries)
    assert len(every) == 30 and sum(one.weight for one in every) == pytest.approx(1)
    lengths = [len(one.leaves) for one in every]
    assert (min(lengths), max(lengths)) == ((4, 16) if auxiliaries else (3, 13))
    assert all(spans(one.tree)[0] == (0, len(one.leaves) - 1) for one in every)
    assert leaves(every[0].tree) == (["Det", "N:s", "Aux:s", "Vi"] if auxiliaries else ["Det", "N:s", "Vi:s"])


def test_sentences_are_as_long_as_they_may_be(questions: StoredCorpus) -> None:
    short = build(QuestionFormation(lexicon=3, longest=9, train_rows=500, id_rows=50, gen_rows=50))
    assert max(len(sentence(fact)) for split in short.sizes for fact in facts(short, split)) == 9
    assert max(len(sentence(fact)) for fact in facts(questions, "train")) == 16


@pytest.mark.parametrize("kind", [QuestionFormation, TenseReinflection])
def test_more_rows_than_there_are_is_said(kind: type[ClauseCorpus]) -> None:
    with pytest.raises(ParameterError, match=r"train_rows: 1,000,001 different rows are asked for; hardly \d"):
        build(kind(lexicon=2, longest=7, train_rows=1_000_000, id_rows=1))
