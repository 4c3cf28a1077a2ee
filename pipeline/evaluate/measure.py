"""Exact match and loss of a model, by split and by what its rows have in common, as training measures them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from pipeline.corpora.store import StoredCorpus
from pipeline.data.rows import Rows, stack
from pipeline.evaluate.facets import Words, facets_of, order, probed
from pipeline.evaluate.subject import Subject
from pipeline.kernels.forward import Logits, fast_logits, stock_logits
from pipeline.kernels.onednn import quicken
from pipeline.models.families import longest
from pipeline.runs.grokking import PROBE
from pipeline.training.decoding import decode_greedily
from pipeline.training.evaluation import group_sums, judge
from pipeline.utils.errors import RecipeError
from pipeline.utils.seeds import sample

Found = dict[str, Any]  # a row of the result, by COLUMNS
COLUMNS = (
    "model", "step", "split", "by", "value", "rows", "exact_match", "loss", "greedy_rows", "greedy_exact_match"
)  # fmt: skip


@dataclass(frozen=True)
class Here:
    """This process alone, on one device."""

    device: torch.device
    eval_batch_size: int
    world_size: int = 1
    process_index: int = 0


@dataclass(frozen=True)
class Part:
    """The rows of a split that are measured, and those that are decoded, with a word for each and each `by`."""

    split: str
    rows: Rows
    words: list[Words]
    decoded: Rows | None
    decoded_words: list[Words]


class Measurement:
    """Rows of a corpus in the tokens of a model, to be measured at any of its steps.

    Args:
        subject: The model.
        stored: The corpus.
        splits: Those that are measured; of `train`, the probe of a run.
        by: Columns that results are also given by, see `facets_of`.
        most: Rows of each split, as many as `max_eval_samples` draws; None: all.
        decode: Rows of each split that are also decoded greedily.
        device: Where it is computed.
        batch: Rows at a time; None: as many as the run took.

    Raises:
        RecipeError, ParameterError: when the model cannot read the corpus, or no row has such a column.
    """

    def __init__(
        self,
        subject: Subject,
        stored: StoredCorpus,
        splits: Sequence[str],
        by: Sequence[str] = (),
        most: int | None = None,
        decode: int = 256,
        device: Any = "cpu",
        batch: int | None = None,
    ):
        self.subject, self.by = subject, by
        self.here = Here(torch.device(device), batch or subject.batch)
        facets = facets_of(stored, splits, by)
        self.parts = [self._part(stored, split, facets[split], most, decode) for split in splits]
        self._logits: Logits | None = None

    def _part(self, stored: StoredCorpus, split: str, facets: list[Words], most: int | None, decode: int) -> Part:
        rows = self.subject.rows(stored, split, PROBE if split == "train" else None).to(self.here.device)
        words = [probed(stored, split, each) for each in facets]

        def drawn(most: int | None) -> list[Words]:
            places = sample(len(rows), most, split)
            return words if places is None else [each[places] for each in words]

        decoded = rows.sample(decode, split) if decode else None
        return Part(split, rows.sample(most, split), drawn(most), decoded, drawn(decode) if decode else [])

    @cached_property
    def _stacked(self) -> tuple[Rows, torch.Tensor, list[tuple[int, ...]]]:
        """All rows below each other, the number of the cell of each, and what the cells are: split and words.

        Where nothing is grouped the cells are the splits, and sums are taken as an evaluation in training takes them.
        """
        rows, split_N = stack([part.rows for part in self.parts])
        columns = [split_N.cpu().numpy()]
        for i in range(len(self.by)):
            number = {word: place for place, word in enumerate(self._values(i))}
            columns.append(np.array([number[word] for part in self.parts for word in part.words[i]]))
        cells, cell_N = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
        return rows, torch.from_numpy(cell_N.reshape(-1)).to(self.here.device), [tuple(cell) for cell in cells.tolist()]

    def _values(self, column: int) -> list[str | None]:
        return sorted({word for part in self.parts for word in part.words[column]}, key=order)

    def at(self, step: int | None) -> Iterator[Found]:
        """What is found at a step: a row for each split, then one for each of its words of every `by`."""
        model = self.subject.model(step, self.here.device)
        rows, cell_N, cells = self._stacked
        logits, objective = self._forward(model, rows), self.subject.objective
        sums_C4 = group_sums(
            lambda batch: judge(logits(model, batch), batch["labels"], objective), rows, cell_N, len(cells), self.here
        ).cpu()
        counts_C = cell_N.bincount(minlength=len(cells)).cpu()
        for place, part in enumerate(self.parts):
            right = self._decoded(model, part)
            for name, value, chosen, where in self._groups(place, part, cells):
                (matches, loss, tokens, _), count = sums_C4[chosen].sum(0).tolist(), int(counts_C[chosen].sum())
                judged = right[where]
                yield {
                    "model": self.subject.name, "step": step, "split": part.split, "by": name, "value": value,
                    "rows": count, "exact_match": matches / count, "loss": loss / tokens, "greedy_rows": len(judged),
                    "greedy_exact_match": float(judged.mean()) if len(judged) else None,
                }  # fmt: skip

    def _groups(
        self, place: int, part: Part, cells: list[tuple[int, ...]]
    ) -> Iterator[tuple[str | None, str | None, list[int], Any]]:
        """The split, then its words of every `by`: with the cells that belong to each, and which rows are decoded."""
        ours = [i for i, cell in enumerate(cells) if cell[0] == place]
        yield None, None, ours, slice(None)
        for column, name in enumerate(self.by):
            for number, word in enumerate(self._values(column)):
                chosen = [i for i in ours if cells[i][1 + column] == number]
                if chosen:
                    yield name, word, chosen, part.decoded_words[column] == word if part.decoded_words else slice(0)

    def _decoded(self, model: PreTrainedModel, part: Part) -> Any:
        """Whether the answer that the model decodes is right, for each row that is decoded."""
        if part.decoded is None:
            return np.empty(0)
        ours, true = decode_greedily(model, part.decoded)
        return np.array([answer == right for answer, right in zip(ours, true)], dtype=np.float64)

    def _forward(self, model: PreTrainedModel, rows: Rows) -> Logits:
        """The way to logits that training takes, found once for the one instance of the model."""
        if self._logits is None:
            most = longest(model.config)
            if (needed := rows.tokens_NT.shape[1] - 1) > most:
                raise RecipeError(self.subject.name, f"has {most} positions, and rows of this corpus {needed} tokens")
            self._logits = stock_logits
            if self.subject.fast:
                self._logits, _ = fast_logits(model, self.subject.family(model), rows.first(4))
                if self.here.device.type == "cpu":
                    quicken(model)
        return self._logits
