"""What single heads do: where they look in repeated tokens, what they copy, and what they suppress.

L blocks of H heads, width E each; n prompts of T tokens; D is the width of the stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.circuits._architectures import gain, is_centred
from pipeline.circuits._batch import FLOATS, Batch, answer_logits, standing
from pipeline.circuits._stream import projected
from pipeline.circuits.hooks import Hooks
from pipeline.utils.draws import Draws

Heads = npt.NDArray[np.float64]  # (L, H)
REPEATED = ("induction", "previous token", "duplicate token")
NOTHING = 1e-6  # nats, below which a head does nothing of which a share could be taken


def repeated_scores(hooks: Hooks, known: Any, seed: int, repeats: int, most: int) -> dict[str, Heads]:
    """Attention of repeated random tokens, by what it goes to; NaN where the model has no positions for two tokens
    twice.

    Args:
        hooks: Of the model.
        known: Token ids, of which those that are repeated are drawn.
        seed: Of the draw.
        repeats: Rows.
        most: Tokens that are repeated, at most.
    """
    room = int(getattr(hooks.model.config, "max_position_embeddings", 2 * most))
    longest = min(most, (room - 1) // 2)
    if longest < 2:
        return {name: np.full((hooks.n_layer, hooks.n_head), np.nan) for name in REPEATED}
    draws = Draws(seed, "repeated tokens")
    tokens = np.unique(known)
    width = 2 * longest + 1
    lead = draws.below(2, repeats)  # a token before, in half of the rows
    shortest = max(longest // 2, 2)
    length = shortest + draws.below(longest + 1 - shortest, repeats)
    rows = tokens[draws.below(len(tokens), repeats, width)]
    for row, start, n in zip(rows, lead, length):
        if len(tokens) >= n:
            row[start : start + n] = tokens[draws.choose(len(tokens), n)]
        row[start + n : start + 2 * n] = row[start : start + n]
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(hooks.n_layer)]
    _, found = hooks.read(torch.from_numpy(rows).long().to(hooks.model.device), names, logits_to_keep=1)
    second = lead + length
    # What is looked at begins where, is how long, and how far back it looks.
    places = {
        "induction": (second, length, length - 1),
        "previous token": (lead + 1, 2 * length - 1, np.ones_like(length)),
        "duplicate token": (second, length, length),
    }
    return {name: np.stack([_diagonals(found[point], *place) for point in names]) for name, place in places.items()}


def _diagonals(pattern_BHTT: Tensor, start: Any, count: Any, offset: Any) -> Any:
    """Each head's mean attention (H,), of `count` tokens from `start` on, to the token `offset` before; all (B,)."""
    pattern = pattern_BHTT.float().cpu().numpy()
    rows = np.repeat(np.arange(len(pattern)), count)
    queries = np.concatenate([np.arange(s, s + n) for s, n in zip(start, count)])
    return pattern[rows, :, queries, queries - np.repeat(offset, count)].mean(axis=0)


def copying(hooks: Hooks, tokens: Tensor, names: Tensor, top: int) -> Heads:
    """The share of named tokens that a head, attending to nothing but their state, has among its highest logits.

    That state is the stream after the first block, or before it for the heads of the first block; it goes through the
    head's norm, values and output, and through the final norm and the unembedding (Wang et al. 2022, section 3.2).

    Args:
        hooks: Of the model.
        tokens: Prompts (n, T).
        names: Which of their tokens are looked at, (n, T).
        top: How many of the highest logits count.
    """
    _, found = hooks.read(tokens, ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"], logits_to_keep=1)
    own = tokens[names]
    before, after = (found[f"blocks.0.hook_resid_{side}"][names][None] for side in ("pre", "post"))
    scores = np.zeros((hooks.n_layer, hooks.n_head))
    for layer in range(hooks.n_layer):
        normed = hooks.part(layer, "ln1")(after if layer else before)
        values_NHE = projected(hooks, layer, normed)[0, :, 2]
        for head in range(hooks.n_head):
            added = values_NHE[:, head] @ hooks.out_weight(layer)[head]
            ranks, _ = standing(hooks, hooks.final_norm(added), own[:, None])
            written = (added != 0).any(-1).cpu()  # a head that writes nothing ranks all tokens alike
            scores[layer, head] = float(((ranks[:, 0] < top) & written).cpu().double().mean())
    return scores


def suppression(hooks: Hooks, batch: Batch, ends: Sequence[Tensor], kept: float) -> Heads:
    """The share of what a head does where the prompts end that is lowering the logits of tokens it attends to.

    A head's output is taken apart by the token attended to, less the mean of that place over prompts. In its place
    comes the mean with, of each token, only what lies along the token's own unembedding and is negative, and of these
    only the share `kept` of tokens whose logits at the end, read off the stream before the head's block, are highest.
    The score is 1 - KL(that || model) / KL(the mean alone || model): McDougall et al. 2023 (arXiv 2310.04625),
    section 3, with one token in the place of their nearest ones.

    Args:
        hooks: Of the model.
        batch: n pairs, whose clean prompts end at one position.
        ends: The attention there in each block, (n, H, T).
        kept: Share of the tokens of a prompt, of which one at least is kept.
    """
    tokens = batch.clean
    clean = answer_logits(hooks, tokens, batch).log_softmax(-1)
    direction_NTD = torch.nn.functional.normalize(unembedding(hooks, tokens), dim=-1)
    streams = [f"blocks.{layer}.hook_resid_pre" for layer in range(hooks.n_layer)]
    before = where_they_end(hooks, batch, streams)
    count = max(math.ceil(kept * tokens.shape[1]), 1)
    scores = np.full((hooks.n_layer, hooks.n_head), np.nan)
    for layer, attention_NHT in enumerate(ends):
        values_NTHE = own_values(hooks, tokens, layer)
        lens = hooks.head(hooks.final_norm(before[layer]))
        # Of a token that stands twice both places are kept, as the logit is that of the token.
        lowest = lens.gather(1, tokens).topk(count, dim=1).values[:, -1:]
        expected_NT = lens.gather(1, tokens) >= lowest
        for head in range(hooks.n_head):
            weighted = attention_NHT[:, head, :, None] * values_NTHE[:, :, head]
            away_NTD = (weighted - weighted.mean(0)) @ hooks.out_weight(layer)[head]
            along = (away_NTD * direction_NTD).sum(-1).clamp(max=0) * expected_NT
            lowered = (along[..., None] * direction_NTD).sum(1)
            whole = away_NTD.sum(1)
            mean_only, lowered_only = (
                _divergence(hooks, batch, layer, change, clean) for change in (-whole, lowered - whole)
            )
            if mean_only > NOTHING:
                scores[layer, head] = 1 - lowered_only / mean_only
    return scores


def where_they_end(hooks: Hooks, batch: Batch, names: Sequence[str]) -> list[Tensor]:
    """Of each point what stands where the clean prompts end: of a stream (n, D), of a pattern (n, H, T)."""
    end, found = int(batch.last[0]), dict[str, Tensor]()

    def keep(name: str, value: Tensor) -> None:
        found[name] = value[..., end, :].clone()

    with torch.no_grad(), hooks.at({name: partial(keep, name) for name in names}):
        hooks.run(batch.clean, logits_to_keep=1)
    return [found[name] for name in names]


def unembedding(hooks: Hooks, tokens: Tensor) -> Tensor:
    """What the logits of tokens (...,) read of the stream, (..., D), through the final norm, but for its scale."""
    weight, scale = hooks.head.weight[tokens], gain(hooks.final_norm)
    if scale is None:
        return weight
    scaled = weight * scale
    return scaled - scaled.mean(-1, keepdim=True) if is_centred(hooks.final_norm) else scaled


def own_values(hooks: Hooks, tokens: Tensor, layer: int) -> Tensor:
    """The value of every token as attention weighs it, (n, T, H, E): what a head gets where each attends to itself."""
    found: dict[str, Tensor] = {}
    at = f"blocks.{layer}.attn."

    def to_itself(pattern: Tensor) -> Tensor:
        return torch.eye(pattern.shape[-1], dtype=pattern.dtype, device=pattern.device).expand_as(pattern)

    with torch.no_grad(), hooks.at({f"{at}hook_pattern": to_itself, f"{at}hook_z": partial(found.__setitem__, "z")}):
        hooks.run(tokens, logits_to_keep=1)
    return found["z"]


def _divergence(hooks: Hooks, batch: Batch, layer: int, change_ND: Tensor, clean_NV: Tensor) -> float:
    """KL(changed || clean), a mean over prompts, where something is added to what attention writes at their end."""
    end, total = int(batch.last[0]), 0.0
    tall = max(FLOATS // (8 * batch.clean.shape[1] * hooks.d_model + clean_NV.shape[1]), 1)
    for start in range(0, len(batch), tall):
        part = batch.rows(start, tall)

        def add(value: Tensor, change: Tensor = change_ND[start : start + tall]) -> Tensor:
            value = value.clone()
            value[:, end] += change
            return value

        with torch.no_grad(), hooks.at({f"blocks.{layer}.hook_attn_out": add}):
            changed = answer_logits(hooks, part.clean, part).log_softmax(-1)
        both = (changed, clean_NV[start : start + tall])
        total += float((changed.exp() * (both[0] - both[1])).sum().cpu().double())
    return total / len(batch)
