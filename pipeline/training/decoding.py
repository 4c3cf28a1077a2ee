"""Exact match as the field defines it: greedy decoding, compared answer by answer.

Training measures the same number with one teacher-forced pass (`Evaluation.measure`); this slower way is what that is
checked against, at the end of every run and in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import torch

from pipeline.data.rows import Rows


class ExactMatch(evaluate.Metric):
    """The share of predictions that equal their reference, both lists of token ids. Needs no network."""

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions and references: lists of lists of token ids",
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(self, predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> dict[str, float]:
        equal = [list(ours) == list(theirs) for ours, theirs in zip(predictions, references, strict=True)]
        return {"exact_match": sum(equal) / len(equal)}


@torch.inference_mode()
def decode_greedily(model: Any, rows: Rows) -> tuple[list[list[int]], list[list[int]]]:
    """The answers of `model.generate` without sampling, and the true ones, as token ids in the order of the rows."""
    was_training = model.training
    model.eval()
    answers: dict[int, list[int]] = {}
    # Rows of one shape at a time, so that no prompt needs padding.
    shapes_N2 = torch.stack([rows.prompt_N, rows.answer_N], dim=1)
    for shape in shapes_N2.unique(dim=0):
        prompt, end = int(shape[0]), int(shape.sum())
        chosen_B = (shapes_N2 == shape).all(dim=1).nonzero().squeeze(1)
        prompt_BP = rows.tokens_NT[chosen_B, :prompt]
        decoded_BT = model.generate(
            prompt_BP, attention_mask=torch.ones_like(prompt_BP), max_new_tokens=end - prompt, do_sample=False
        )
        answers |= dict(zip(chosen_B.tolist(), decoded_BT[:, prompt:end].tolist()))
    model.train(was_training)
    spans = zip(rows.tokens_NT.tolist(), rows.prompt_N.tolist(), rows.answer_N.tolist())
    return [answers[i] for i in range(len(rows))], [row[prompt : prompt + answer] for row, prompt, answer in spans]
