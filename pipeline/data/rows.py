"""Corpus to tensors: rows that lie on the device, answer positions, and batches taken by index.

Tensor names carry their shape: N rows of a split, B rows of a batch, T tokens of a row, L = T - 1 input tokens, A
answer tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from pipeline.config.recipe import Recipe
from pipeline.corpora.base import Examples
from pipeline.corpora.store import StoredCorpus
from pipeline.data.buckets import Shape, widths
from pipeline.data.labels import IGNORED
from pipeline.utils.errors import ParameterError
from pipeline.utils.seeds import row_order, sample

Batch = dict[str, Any]  # tensors, and under `tail` a number


@dataclass(frozen=True)
class Rows(Dataset[Batch]):
    """Examples as tensors on one device, in the order of the corpus.

    tokens_NT: prompt, answer, and right padding, which a causal model never sees from an answer position.
    prompt_N and answer_N: lengths in tokens.
    """

    tokens_NT: torch.Tensor
    prompt_N: torch.Tensor
    answer_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens_NT)

    def to(self, device: torch.device) -> Rows:
        return Rows(self.tokens_NT.to(device), self.prompt_N.to(device), self.answer_N.to(device))

    @cached_property
    def shape(self) -> Shape:
        """That of a batch of any of the rows."""
        return Shape.of(self.prompt_N, self.answer_N)

    @cached_property
    def cuts(self) -> tuple[torch.Tensor, list[Shape]]:
        """Which piece of a batch a row belongs to, (N,) on the CPU, and the shapes of the pieces."""
        prompt_N, answer_N = self.prompt_N.cpu(), self.answer_N.cpu()
        piece_N = torch.bucketize(prompt_N + answer_N, torch.tensor(widths(prompt_N + answer_N)))
        pieces = [piece_N == number for number in range(int(piece_N.max()) + 1)]
        return piece_N, [Shape.of(prompt_N[chosen_N], answer_N[chosen_N]) for chosen_N in pieces]

    def pieces(self, index_B: torch.Tensor) -> list[Batch]:
        """The batch of these rows, cut by their lengths; their numbers are best on the CPU where `cuts` has several."""
        piece_N, shapes = self.cuts
        if len(shapes) == 1:
            return [self.__getitems__(index_B)]
        piece_B = piece_N[index_B.cpu()]
        chosen = [(index_B[piece_B == number], shape) for number, shape in enumerate(shapes)]
        device = self.tokens_NT.device
        return [self._batch(rows_B.to(device, non_blocking=True), shape) for rows_B, shape in chosen if len(rows_B)]

    def renamed(self, ids: Sequence[int]) -> Rows:
        """The same rows where token i is called ids[i]."""
        return Rows(torch.tensor(ids)[self.tokens_NT], self.prompt_N, self.answer_N)

    def whole(self) -> Rows:
        """The same rows with every token but the first as the answer, to train on all of them."""
        return Rows(self.tokens_NT, torch.ones_like(self.prompt_N), self.prompt_N + self.answer_N - 1)

    def order(self, batch: int, **facts: Any) -> RowOrder:
        """The order in which batches take them."""
        return RowOrder(len(self), batch, **facts)

    def first(self, most: int) -> Rows:
        return Rows(self.tokens_NT[:most], self.prompt_N[:most], self.answer_N[:most])

    def sample(self, most: int | None, split: str, purpose: str = "evaluation") -> Rows:
        """At most so many rows, drawn for a purpose, the same ones every time; `split` is what these rows are of."""
        drawn = sample(len(self), most, split, purpose)
        if drawn is None:
            return self
        chosen = torch.from_numpy(drawn).to(self.tokens_NT.device)
        return Rows(self.tokens_NT[chosen], self.prompt_N[chosen], self.answer_N[chosen])

    def __getitems__(self, index_B: torch.Tensor) -> Batch:
        """The batch of these rows: input_ids (B, L), positions and labels of the answer tokens (B, A), and `tail`.

        The hidden state at `positions[b, a]` is the one that predicts `labels[b, a]`.
        """
        return self._batch(index_B, self.shape)

    def _batch(self, index_B: torch.Tensor, shape: Shape) -> Batch:
        tokens_BT = self.tokens_NT[:, : shape.width][index_B]
        last_B1 = self.answer_N[index_B, None] - 1
        step_A = torch.arange(shape.answer, device=tokens_BT.device)
        # A shorter answer repeats its last place, which is ignored below.
        place_BA = self.prompt_N[index_B, None] + torch.minimum(step_A, last_B1)
        labels_BA = tokens_BT.gather(1, place_BA)
        if not shape.is_even:
            labels_BA = labels_BA.masked_fill(step_A > last_B1, IGNORED)
        return {"input_ids": tokens_BT[:, :-1], "positions": place_BA - 1, "labels": labels_BA, "tail": shape.tail}


def stack(parts: Sequence[Rows]) -> tuple[Rows, torch.Tensor]:
    """The rows of several splits below each other, and the number of the split that each belongs to, (N,)."""
    width = max(part.tokens_NT.shape[1] for part in parts)
    tokens = [nn.functional.pad(part.tokens_NT, (0, width - part.tokens_NT.shape[1])) for part in parts]
    rows = Rows(torch.cat(tokens), *(torch.cat(lengths) for lengths in zip(*((p.prompt_N, p.answer_N) for p in parts))))
    sizes = torch.tensor([len(part) for part in parts], device=rows.tokens_NT.device)
    return rows, torch.arange(len(parts), device=sizes.device).repeat_interleave(sizes)


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of several splits below each other."""
    return stack(parts)[0]


def from_lists(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Rows:
    """Rows from token ids of prompts and of their answers, on the CPU."""
    lengths = torch.tensor([(len(prompt), len(answer)) for prompt, answer in zip(prompts, answers)])
    tokens_NT = torch.zeros(len(prompts), int(lengths.sum(1).max()), dtype=torch.int64)
    for row_T, prompt, answer in zip(tokens_NT, prompts, answers):
        row_T[: len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
    return Rows(tokens_NT, *(column.contiguous() for column in lengths.T))


def load_rows(stored: StoredCorpus, split: str, most: int | None = None) -> Rows:
    """The rows of a split on the CPU; `most` draws that many of them, the same ones every time."""
    return from_blocks(list(stored.blocks(split)), stored.tokens.index("<pad>")).sample(most, split, "probe")


def from_blocks(blocks: Sequence[Examples], pad: int) -> Rows:
    """Rows of examples on the CPU, padded with a token."""
    width = max(block.prompts.shape[1] + block.answers.shape[1] for block in blocks)
    tokens_NT = torch.full((sum(map(len, blocks)), width), pad, dtype=torch.int64)
    prompt_N, answer_N = (torch.empty(len(tokens_NT), dtype=torch.int64) for _ in range(2))
    start = 0
    for block in blocks:
        rows = slice(start, start := start + len(block))
        prompt, answer = block.prompts.shape[1], block.answers.shape[1]
        tokens_NT[rows, :prompt] = torch.from_numpy(block.prompts)
        tokens_NT[rows, prompt : prompt + answer] = torch.from_numpy(block.answers)
        prompt_N[rows], answer_N[rows] = prompt, answer
    return Rows(tokens_NT, prompt_N, answer_N)


def check_rows(recipe: Recipe, rows: Rows) -> None:
    """Whether corpus, model and batch fit together.

    Raises:
        ParameterError: when a batch is more than all rows, or a row is longer than the model's positions.
    """
    batch, longest = recipe.options.global_batch_size, rows.tokens_NT.shape[1] - 1
    if batch is not None and batch > len(rows):
        raise ParameterError(
            "global_batch_size", f"{batch} is more than the {len(rows):,} training rows; <= {len(rows)}"
        )
    if longest > recipe.model.max_length:
        raise ParameterError(
            "model.n_positions", f"{recipe.model.max_length} is too few for rows of {longest} tokens; >= {longest}"
        )


def check_held_out(train: Rows, held_out: Mapping[str, Rows]) -> None:
    """Whether prompts that differ in the corpus still do in the tokens of the model, by their text.

    Raises:
        ParameterError: when a held-out prompt reads like one that is trained.
    """
    trained = {tuple(row[:length]) for row, length in zip(train.tokens_NT.tolist(), train.prompt_N.tolist())}
    for split, rows in held_out.items():
        same = [tuple(row[:n]) in trained for row, n in zip(rows.tokens_NT.tolist(), rows.prompt_N.tolist())]
        if any(same):
            raise ParameterError(
                "model.templates", f"{sum(same):,} of {len(same):,} prompts of {split} read as prompts of train do"
            )


class RowOrder(BatchSampler):
    """Which rows each micro-batch takes: a stream of permutations cut into full batches.

    Update u takes rows u x B to (u + 1) x B of the stream, so every pass shows every row once, no batch is short, and
    the order depends on nothing but the seed and the update: not on processes, accumulation, or where a run was
    resumed. An epoch of the Trainer is the ceil(n / B) updates in which a pass ends.
    """

    def __init__(
        self,
        rows: int,
        batch: int,
        *,
        micro: int,
        rank: int,
        ranks: int,
        seed: int,
        updates_done: Callable[[], int],
        device: torch.device | str = "cpu",
    ):
        self.rows, self.batch, self.micro, self.rank, self.ranks = rows, batch, micro, rank, ranks
        self.seed = seed
        self._updates_done = updates_done
        # Copied once a pass, so that taking a batch waits for nothing.
        self._pass = lru_cache(maxsize=2)(lambda number: self._order(number).to(device))

    @property
    def updates_per_epoch(self) -> int:
        return -(-self.rows // self.batch)

    def __len__(self) -> int:
        return self.updates_per_epoch * (self.batch // (self.micro * self.ranks))

    def __iter__(self) -> Iterator[Any]:  # tensors of row numbers, where torch's class has lists
        first = self._updates_done() // self.updates_per_epoch * self.updates_per_epoch
        for update in range(first, first + self.updates_per_epoch):
            rows = self.update_rows(update)
            for start in range(self.rank * self.micro, self.batch, self.ranks * self.micro):
                yield rows[start : start + self.micro]

    def _order(self, number: int) -> torch.Tensor:
        """The rows of a pass."""
        return row_order(self.rows, self.seed, number)

    def update_rows(self, update: int) -> torch.Tensor:
        """The rows of all processes in an update, (B,)."""
        number, start = divmod(update * self.batch, self.rows)
        parts, missing = [], self.batch
        while missing:
            part = self._pass(number)[start : start + missing]
            parts.append(part)
            number, start, missing = number + 1, 0, missing - len(part)
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def loader(rows: Rows, order: RowOrder) -> DataLoader[Batch]:
    """The batches of an epoch as a DataLoader, for the Trainer: there is nothing left to collate or to copy."""
    return DataLoader(rows, batch_sampler=order, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Batch:
    return batch


class AnswerPositions:
    """Lets a language model compute logits at answer positions only.

    A hook before the output projection keeps the hidden states (B, A) of the `positions` set by `at`; without them the
    model is as it was. The projection is a large part of a small model's work, and most of it would be thrown away.
    """

    def __init__(self, head: nn.Module):
        self.positions_BA: torch.Tensor | None = None
        self.remove = head.register_forward_pre_hook(self._keep).remove

    def _keep(self, module: nn.Module, inputs: Sequence[torch.Tensor]) -> torch.Tensor | None:
        if self.positions_BA is None:
            return None
        hidden_BLD = inputs[0]
        starts_B1 = torch.arange(len(hidden_BLD), device=hidden_BLD.device)[:, None] * hidden_BLD.shape[1]
        # A lookup of rows: its backward adds into rows three times faster than that of gather or indexing on CPU.
        return nn.functional.embedding(starts_B1 + self.positions_BA, hidden_BLD.flatten(0, 1))

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits (B, A, V) at the batch's answer positions."""
        self.positions_BA = batch["positions"]
        try:
            return model(input_ids=batch["input_ids"], use_cache=False).logits
        finally:
            self.positions_BA = None
