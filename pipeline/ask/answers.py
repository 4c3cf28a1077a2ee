"""The likeliest answers of a model to a prompt, and how likely it finds one."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch

BEAM = 20  # answers that are followed at each token; the likeliest of one token are exact


@torch.no_grad()
def likeliest(
    model: Any, prompt: list[int], length: int, ends: Collection[int], most: int
) -> list[tuple[list[int], float]]:
    """The likeliest answers with their probabilities, the first of them the likeliest.

    Args:
        model: A causal language model.
        prompt: Token ids.
        length: Most tokens of an answer.
        ends: Tokens with which an answer ends; they are part of it.
        most: Answers that are wanted.
    """
    beam = max(most, BEAM)
    open_, closed = [(list[int](), 0.0)], list[tuple[list[int], float]]()
    for _ in range(length):
        ids_BT = torch.tensor([[*prompt, *answer] for answer, _ in open_], device=model.device)
        log_p_BV = model(input_ids=ids_BT, use_cache=False).logits[:, -1].cpu().double().log_softmax(-1)
        values_BK, tokens_BK = log_p_BV.topk(min(beam, log_p_BV.shape[1]))
        longer = [
            ([*answer, token], log_p + value)
            for (answer, log_p), values, tokens in zip(open_, values_BK.tolist(), tokens_BK.tolist())
            for value, token in zip(values, tokens)
        ]
        longer = sorted(longer, key=lambda each: -each[1])[:beam]
        closed += [each for each in longer if each[0][-1] in ends]
        open_ = [each for each in longer if each[0][-1] not in ends]
        if not open_:
            break
    found = sorted([*closed, *open_], key=lambda each: -each[1])[:most]
    return [(answer, math.exp(log_p)) for answer, log_p in found]


@torch.no_grad()
def probability(model: Any, prompt: list[int], answer: list[int]) -> float:
    """How likely a model finds an answer to a prompt, given token by token."""
    ids_1T = torch.tensor([[*prompt, *answer]], device=model.device)
    log_p_TV = model(input_ids=ids_1T, use_cache=False).logits[0].cpu().double().log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return float(log_p_TV[list(places), answer].sum().exp())
