"""Pairs of clean and corrupted prompts for the analyses, from any corpus."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.circuits._chains import parsed_pairs, sentence_pairs, stepwise_pairs
from pipeline.circuits._classes import some_prompts, two_classes
from pipeline.circuits._counterfactuals import Neighbours
from pipeline.circuits._said_bridges import said_pairs
from pipeline.circuits.base import Corruption, Pairs, Source
from pipeline.config.recipe import Recipe
from pipeline.corpora.base import PAD, Contrasted, Examples, Ids, KnownLaw, Stepwise
from pipeline.corpora.store import StoredCorpus
from pipeline.runs.folder import RunFolder
from pipeline.runs.layout import TOKENIZER
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.suggest import did_you_mean


@dataclass(frozen=True)
class CorpusPairs(Source):
    """Pairs of a stored corpus: a prompt, and a known one that differs from it in one token and has another answer."""

    stored: StoredCorpus

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.stored.sizes)

    @cached_property
    def _neighbours(self) -> Neighbours:
        return Neighbours(self.stored)

    def pairs(
        self, split: str, most: int, seed: int, every_position: bool = False, corruption: Corruption = "corpus"
    ) -> Pairs:
        """Of the split's longest block; at every position the same prompts, those that can be corrupted at all of them.

        Where no prompt can be, each position has the first that can be corrupted there.
        """
        if split not in self.stored.sizes:
            raise ParameterError("split", f"there is no split {split!r}; allowed: {', '.join(self.stored.sizes)}")
        examples = max(self.stored.blocks(split), key=lambda block: (block.prompts.shape[1], len(block)))
        examples = examples.take(Draws(seed, "pairs").permutation(len(examples)))
        draws = Draws(seed, "corruption")
        width = examples.prompts.shape[1]
        if every_position:
            found = self._everywhere(examples, draws, most, corruption)
        elif isinstance(self.stored.corpus, Contrasted):
            chosen = examples.take(slice(most))
            found = [(chosen, self.stored.corpus.contrasted(chosen, draws))]
        else:
            chosen = self._corruptible(examples, None, most)
            found = [(chosen, self._neighbours.corrupt(chosen, draws, None))] if len(chosen) else []
        if not found:
            raise ParameterError("split", f"no prompt of {split} has a neighbour with another answer")
        clean, corrupted = (
            [np.concatenate([getattr(examples, part) for examples in side]) for part in ("prompts", "answers")]
            for side in zip(*found)
        )
        places = self.stored.corpus.places(width)
        notes = {name: np.concatenate([chosen.notes[name] for chosen, _ in found]) for name in examples.notes}
        known = {name: note for name, note in notes.items() if (note >= 0).all()}
        return first_difference(Pairs(clean[0], corrupted[0], clean[1], corrupted[1], known, places=places))

    def _everywhere(
        self, examples: Examples, draws: Draws, most: int, corruption: Corruption
    ) -> list[tuple[Examples, Examples]]:
        """Prompts beside corrupted ones, for each position that has any; by the corpus's own rule where it has one."""
        positions = range(examples.prompts.shape[1])
        pool = examples.take(slice(0, max(8 * most, 1024)))
        corpus = self.stored.corpus
        ruled = {i: corpus.corrupt(pool, i, draws) for i in positions} if corruption == "any" else {}
        rules = {i: rule for i, rule in ruled.items() if rule is not None and rule[2].any()}
        if rules:
            rows = np.flatnonzero(np.all([found for *_, found in rules.values()], axis=0))[:most]
            if len(rows):
                return [
                    (pool.take(rows), self._answered(pool.take(rows), prompts[rows], answers[rows]))
                    for prompts, answers, _ in rules.values()
                ]
        counts = {i: self._neighbours.count(pool, i) > 0 for i in positions}
        able = [found for found in counts.values() if found.any()]
        rows = np.flatnonzero(np.all(able, axis=0))[:most] if able else np.empty(0, np.int64)
        chosen = {i: pool.take(rows) if len(rows) else self._corruptible(examples, i, most) for i in positions}
        wanted = [i for i in positions if (counts[i].any() if len(rows) else len(chosen[i]))]
        return [(chosen[i], self._neighbours.corrupt(chosen[i], draws, i)) for i in wanted]

    def _answered(self, clean: Examples, prompts: Ids, answers: Ids) -> Examples:
        """Corrupted prompts with answers as long as the clean ones, of which only the first token is their own."""
        return Examples(prompts, np.hstack([answers, clean.answers[:, 1:]]), "corrupted")

    def _corruptible(self, examples: Examples, position: int | None, most: int) -> Examples:
        """The first examples that have a neighbour; counted in parts, as most usually have one."""
        rows: list[Numbers] = []
        for start in range(0, len(examples), max(2 * most, 1024)):
            part = examples.take(slice(start, start + max(2 * most, 1024)))
            rows.append(start + np.flatnonzero(self._neighbours.count(part, position)))
            if sum(map(len, rows)) >= most:
                break
        return examples.take(np.concatenate(rows)[:most])

    def table(self) -> tuple[Ids, Ids, Numbers, int]:
        n = getattr(self.stored.corpus, "cyclic_order", None)
        return super().table() if n is None else (*self._whole, n)

    def products(self) -> tuple[Ids, Ids, Numbers, Numbers]:
        product = getattr(self.stored.corpus, "product", None)
        return super().products() if product is None else (*self._whole, product)

    def successors(self) -> Pairs:
        find = getattr(self.stored.corpus, "successors", None)
        if find is None:
            return super().successors()
        sets: dict[str, Ids] = find()
        rows = np.concatenate(list(sets.values()))
        others = np.concatenate([np.roll(pairs, -1, axis=0) for pairs in sets.values()])
        names = [name for name, pairs in sets.items() for _ in pairs]
        return Pairs(rows[:, :1], others[:, :1], rows[:, 1:], others[:, 1:], metadata={"set": names})

    def drawn(self, split: str, most: int, seed: int) -> Pairs | None:
        corpus = self.stored.corpus
        if not isinstance(corpus, KnownLaw):
            return None
        block = max(self.stored.blocks(split), key=len)
        chosen = block.take(Draws(seed, "pairs").permutation(len(block))[:most])
        rows = np.hstack([chosen.prompts, chosen.answers])
        # Nothing is asked of corrupted prompts here, which only have to differ.
        other = (rows + 1) % len(corpus.vocabulary())
        return Pairs(rows[:, :-1], other[:, :-1], rows[:, -1:], other[:, -1:], values=corpus.law(rows))

    def prompts(self, split: str, most: int, seed: int) -> Pairs:
        return some_prompts(self.stored, split, most, seed)

    def classes(self, split: str, most: int, seed: int, names: Sequence[str] = ()) -> Pairs:
        return first_difference(two_classes(self.stored, split, most, seed, names))

    def language(self) -> Pairs:
        find = getattr(self.stored.corpus, "sentences", None)
        return super().language() if find is None else sentence_pairs(self.stored, find())

    def trees(self, split: str, most: int, seed: int) -> Pairs:
        return parsed_pairs(self.stored, split, most, seed) or super().trees(split, most, seed)

    def chains(self, split: str, most: int, seed: int, completions: int) -> Pairs:
        corpus = self.stored.corpus
        if not isinstance(corpus, Stepwise):
            return said_pairs(self.stored, split, most, seed) or super().chains(split, most, seed, completions)
        return stepwise_pairs(corpus, list(self.stored.blocks(split)), most, seed, completions)

    @property
    def _whole(self) -> tuple[Ids, Ids, Numbers]:
        """Prompts and answers of what is trained and what is held out, and 1 where it is trained."""
        parts = [(block, split == "train") for split in ("train", "id") for block in self.stored.blocks(split)]
        prompts, answers = (np.concatenate([getattr(b, side) for b, _ in parts]) for side in ("prompts", "answers"))
        return prompts, answers, np.concatenate([np.full(len(b), trained, np.int64) for b, trained in parts])


def first_difference(pairs: Pairs) -> Pairs:
    """The pairs with answers that differ in their first token.

    Tokens with which all answers begin, such as `<a>`, become part of the prompts. Pairs whose answers begin alike
    beyond that, such as two entities of one first name, are left out.
    """
    answers, others, clean, corrupted, places = pairs.answers, pairs.corrupted_answers, pairs.clean, pairs.corrupted, []
    while answers.shape[1] > 1 and len({*answers[:, 0].tolist(), *others[:, 0].tolist()}) == 1:
        clean, corrupted = (np.hstack([side, answers[:, :1]]) for side in (clean, corrupted))
        answers, others = answers[:, 1:], others[:, 1:]
        places.append("answer")
    moved = dataclasses.replace(
        pairs, clean=clean, corrupted=corrupted, answers=answers, corrupted_answers=others,
        lengths=pairs.lengths + len(places), places=[*pairs.places, *places],
    )  # fmt: skip
    return moved.take(answers[:, 0] != others[:, 0])


@dataclass(frozen=True)
class Renamed(Source):
    """Pairs of another source for a model that calls token i ids[i]; -1 is a token that no pair shows."""

    source: Source
    ids: Sequence[int] | Ids

    @property
    def splits(self) -> tuple[str, ...]:
        return self.source.splits

    def pairs(
        self, split: str, most: int, seed: int, every_position: bool = False, corruption: Corruption = "corpus"
    ) -> Pairs:
        return self.source.pairs(split, most, seed, every_position, corruption).renamed(self.ids)

    def table(self) -> tuple[Ids, Ids, Numbers, int]:
        prompts, answers, trained, n = self.source.table()
        new = self._elements_stay(n)
        return new[prompts], new[answers], trained, n

    def products(self) -> tuple[Ids, Ids, Numbers, Numbers]:
        prompts, answers, trained, product = self.source.products()
        new = self._elements_stay(len(product))
        return new[prompts], new[answers], trained, product

    def successors(self) -> Pairs:
        return self.source.successors().renamed(self.ids)

    def drawn(self, split: str, most: int, seed: int) -> Pairs | None:
        found = self.source.drawn(split, most, seed)
        return None if found is None else found.renamed(self.ids)

    def prompts(self, split: str, most: int, seed: int) -> Pairs:
        return self.source.prompts(split, most, seed).renamed(self.ids)

    def classes(self, split: str, most: int, seed: int, names: Sequence[str] = ()) -> Pairs:
        return self.source.classes(split, most, seed, names).renamed(self.ids)

    def language(self) -> Pairs:
        return self.source.language().renamed(self.ids)

    def trees(self, split: str, most: int, seed: int) -> Pairs:
        return self.source.trees(split, most, seed).renamed(self.ids)

    def chains(self, split: str, most: int, seed: int, completions: int) -> Pairs:
        return self.source.chains(split, most, seed, completions).renamed(self.ids)

    def _elements_stay(self, n: int) -> Ids:
        """All new ids, where the first n tokens, the elements of a group, keep theirs."""
        new = np.asarray(self.ids, dtype=np.int32)
        if not np.array_equal(new[:n], np.arange(n)):
            raise ParameterError("corpus", "the elements of the group are other token ids in this model")
        return new


def corpus_source(recipe: Recipe, stored: StoredCorpus, tokenizer: Path | None = None) -> Source:
    """The pairs of a recipe's corpus in the tokens of its model, by the tokenizer of a folder where one is named.

    Raises:
        ParameterError: when a word of the corpus is not one token of the model.
    """
    ids, pairs = recipe.model.token_ids(stored, tokenizer), CorpusPairs(stored)
    return pairs if ids == range(len(stored.tokens)) else Renamed(pairs, ids)


def source_of(run: RunFolder) -> Source:
    """The pairs of a run's corpus in the tokens of its model.

    Raises:
        RecipeError: when a word of the corpus is not one token of the model.
    """
    try:
        return corpus_source(run.recipe, run.stored, run.path / TOKENIZER)
    except ParameterError as error:
        raise run.recipe.located(error) from None


def translate(stored: StoredCorpus, tokenizer: Any) -> Ids:
    """Token ids of a corpus to those of a model's own tokenizer, (V,); -1 for a token that no example shows.

    Raises:
        RecipeError: when the tokenizer lacks a token of the corpus: the model was trained on another one.
    """
    known = tokenizer.get_vocab()
    used = stored.tokens[: stored.tokens.index(PAD)]
    for token in used:
        if token not in known:
            raise RecipeError("--model", f"does not know {token}, a token of this corpus{did_you_mean(token, known)}")
    return np.array([known.get(token, -1) for token in stored.tokens], np.int32)
