"""The tuned lens undoes a map that is put into a model, and measures what plain torch does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits.base import Pairs
from pipeline.circuits.tuned_lens import LOGIT, TUNED, TunedLens
from pipeline.models.gpt2_bare import Gpt2Bare
from pipeline.utils.errors import MismatchError
from tests.circuits.small import KINDS, random_model, random_pairs, tokens_of

WIDTH = 16


def rows_of(table: Any) -> dict[tuple[int, int, str], dict[str, Any]]:
    return {(row["layer"], row["position"], row["lens"]): row for row in table.to_pylist()}


def moving(n: int = 60) -> tuple[Any, Pairs]:
    """A model whose one block moves every token to the next, by a map that is linear where states are not negative."""
    model: Any = Gpt2Bare(n_layer=1, n_embd=WIDTH, n_head=2, n_inner=WIDTH, n_positions=4).build(WIDTH).eval()
    eye = torch.eye(WIDTH)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.transformer.wte.weight.copy_(eye)
        model.lm_head.weight.copy_(4 * eye)
        model.transformer.h[0].mlp.c_fc.weight.copy_(eye)
        model.transformer.h[0].mlp.c_proj.weight.copy_(eye.roll(1, dims=1) - eye)
    rng = np.random.default_rng(0)
    clean = rng.integers(0, WIDTH, (n, 3)).astype(np.int32)
    return model, Pairs(clean, (clean + 1) % WIDTH, (clean[:, -1:] + 1) % WIDTH, (clean[:, -1:] + 2) % WIDTH)


def test_a_linear_map_that_is_put_into_a_model_is_learned() -> None:
    model, pairs = moving()
    found = rows_of(TunedLens(updates=300, rate=0.03).run(model, pairs))
    for position in range(3):
        logit, tuned = (found[0, position, lens] for lens in (LOGIT, TUNED))
        assert logit["agrees"] == 0 and logit["kl"] > 1
        assert tuned["agrees"] == 1 and tuned["kl"] < 0.02
    # The model gives the next token a logit of 4, and 0 to the 15 others.
    expected = np.exp(4) / (np.exp(4) + WIDTH - 1)
    assert found[0, 2, TUNED]["probability"] == pytest.approx(expected, abs=0.05)
    assert found[0, 2, LOGIT]["probability"] == pytest.approx(1 / (np.exp(4) + WIDTH - 1), abs=1e-6)


def test_more_updates_come_nearer_and_each_knob_acts() -> None:
    model, pairs = moving()

    def kl(**parameters: Any) -> float:
        return float(rows_of(TunedLens(**parameters).run(model, pairs))[0, 2, TUNED]["kl"])

    assert kl(updates=10) > kl(updates=100) > 0
    assert len({kl(updates=20), kl(updates=20, rate=0.02), kl(updates=20, states=16), kl(updates=20, seed=1)}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_logit_lens_beside_it_is_plain_torch(kind: str) -> None:
    model, pairs = random_model(kind), random_pairs(n=8)
    found = rows_of(TunedLens(updates=1, rate=1e-12).run(model, pairs))
    base = model.base_model
    blocks = list(base.h if hasattr(base, "h") else base.layers)
    norm = base.ln_f if hasattr(base, "h") else base.final_layer_norm
    seen: list[torch.Tensor] = []
    handles = [block.register_forward_pre_hook(lambda _, x: seen.append(x[0])) for block in dict.fromkeys(blocks)]
    with torch.no_grad():
        own = model(tokens_of(pairs.clean)).logits.double().log_softmax(-1)[1::2]
        for handle in handles:
            handle.remove()
        for layer, stream in enumerate(seen):
            logs = model.get_output_embeddings()(norm(stream)).double().log_softmax(-1)[1::2]
            kl = (own.exp() * (own - logs)).sum(-1).mean(0)
            agrees = (own.argmax(-1) == logs.argmax(-1)).double().mean(0)
            for position in range(7):
                row = found[layer, position, LOGIT]
                assert row["kl"] == pytest.approx(kl[position].item(), rel=1e-3, abs=1e-5)
                assert row["agrees"] == pytest.approx(agrees[position].item())
                # A rate of nearly nothing leaves the map at the identity.
                assert found[layer, position, TUNED]["kl"] == pytest.approx(row["kl"], rel=1e-4, abs=1e-6)
    assert len(found) == 2 * 7 * len(seen)


def test_a_single_prompt_is_refused() -> None:
    with pytest.raises(MismatchError, match="trained on every second prompt, and there is but one"):
        TunedLens().run(random_model("gpt2"), random_pairs(n=1))
