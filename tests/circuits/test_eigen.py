"""Bilinear MLPs as quadratic forms: identities on weights made by hand, and logits cut down to few terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._bilinear import Bilinear, terms
from pipeline.circuits.base import Pairs
from pipeline.circuits.eigen import Eigen
from pipeline.models.gpt2_bilinear import Gpt2Bilinear
from pipeline.utils.errors import UnsupportedError
from tests.circuits.small import random_model, random_pairs, tokens_of


def hand_made() -> Bilinear:
    """out = (x0 x1, x0^2 - x1^2, (x0 + x2)^2)."""
    left = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 1]])
    right = torch.tensor([[0.0, 1, 0], [1, -1, 0], [1, 0, 1]])
    return Bilinear.of(torch.cat([left, right]), torch.eye(3))


def test_eigenvectors_of_weights_made_by_hand() -> None:
    values, vectors = hand_made().eigen(torch.eye(3, dtype=torch.float64))
    half = 0.5**0.5
    # x0 x1 is half the difference of two squares; a square has one eigenvector.
    for found, expected in zip(values, ([0.5, -0.5, 0], [1, -1, 0], [2, 0, 0])):
        assert sorted(found.tolist()) == pytest.approx(sorted(expected), abs=1e-12)
    assert abs(vectors[0, 0] @ torch.tensor([half, half, 0], dtype=torch.float64)) == pytest.approx(
        1 if values[0, 0] > 0 else 0, abs=1e-12
    )
    assert vectors[2, 0].abs().tolist() == pytest.approx([half, 0, half])


def test_eigenvectors_add_up_to_the_layer() -> None:
    torch.manual_seed(0)
    mlp = Bilinear.of(torch.randn(2 * 20, 7), torch.randn(5, 20))
    directions, inputs = torch.randn(4, 5).double(), torch.randn(30, 7).double()
    outputs = ((inputs @ mlp.left.T) * (inputs @ mlp.right.T)) @ mlp.out.T
    found = terms(*mlp.eigen(directions), inputs).sum(-1)
    torch.testing.assert_close(found, outputs @ directions.T, atol=1e-5, rtol=1e-5)
    values, _ = mlp.eigen(directions)
    assert (values.abs().diff(dim=1) <= 1e-9).all()


def test_hosvd_is_that_of_the_tensor_written_out() -> None:
    torch.manual_seed(0)
    mlp = Bilinear.of(torch.randn(2 * 9, 4), torch.randn(6, 9))
    tensor = np.einsum("om,mi,mj->oij", mlp.out, mlp.left, mlp.right)
    tensor = (tensor + tensor.transpose(0, 2, 1)) / 2
    expected = np.linalg.svd(tensor.reshape(6, 16), compute_uv=False)
    values, directions = mlp.hosvd()
    np.testing.assert_allclose(values, expected, atol=1e-6)
    along = np.linalg.norm(np.tensordot(directions.numpy(), tensor, 1).reshape(6, -1), axis=1)
    np.testing.assert_allclose(along, expected, atol=1e-6)


def bilinear_model() -> Any:
    torch.manual_seed(0)
    model = Gpt2Bilinear(n_layer=2, n_embd=16, n_head=2, n_inner=24, n_positions=12, initializer_range=0.3).build(24)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1 and weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    return model.eval()


def rows_of(table: Any, part: str) -> dict[int, dict[str, Any]]:
    return {row["rank"]: row for row in table.to_pylist() if row["part"] == part}


def test_all_terms_are_the_model_and_none_is_the_model_without_the_layer() -> None:
    model, pairs = bilinear_model(), random_pairs(n=200)
    pairs.answers[:] = np.array([4, 11, 17])[np.arange(200) % 3, None]
    table = Eigen().run(model, pairs)
    assert max(table["error"].to_pylist()) < 1e-5
    among = [4, 11, 17]
    whole = model(tokens_of(pairs.clean)).logits[:, -1][:, among].argmax(-1).numpy()
    right = (np.array(among)[whole] == pairs.answers[:, 0]).mean()
    eigenvectors, neurons = rows_of(table, "eigenvectors"), rows_of(table, "neurons")
    assert eigenvectors[16]["accuracy"] == neurons[24]["accuracy"] == pytest.approx(right)
    # Without the last MLP, divided as with it.
    streams: dict[str, torch.Tensor] = {}
    mlp = model.transformer.h[-1].mlp
    hooks = [mlp.register_forward_hook(lambda *call: streams.update(out=call[-1]))]
    hooks.append(model.transformer.ln_f.register_forward_pre_hook(lambda _, inputs: streams.update(whole=inputs[0])))
    model(tokens_of(pairs.clean))
    for hook in hooks:
        hook.remove()
    out, stream = streams["out"][:, -1], streams["whole"][:, -1]
    norm = model.transformer.ln_f
    rest = stream - out
    normed = (rest - rest.mean(1, keepdim=True)) / (stream.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    logits = (normed * norm.weight + norm.bias) @ model.lm_head.weight.T
    chosen = logits[:, among].argmax(-1).numpy()
    expected = (np.array(among)[chosen] == pairs.answers[:, 0]).mean()
    assert eigenvectors[0]["accuracy"] == neurons[0]["accuracy"] == pytest.approx(expected)
    for part in ("spectrum", "hosvd"):
        shares = [row["share"] for row in rows_of(table, part).values()]
        assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == pytest.approx(1)


def test_one_prompt_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = bilinear_model(), random_pairs(n=9)
    whole = Eigen().run(model, pairs)
    monkeypatch.setattr("pipeline.circuits.eigen.CHUNK", 1)
    found = Eigen().run(model, pairs)
    for column in ("accuracy", "share", "error"):
        np.testing.assert_allclose(found[column], whole[column], atol=1e-12)


def test_another_model_is_refused_in_a_line() -> None:
    pairs: Pairs = random_pairs()
    with pytest.raises(UnsupportedError, match="Eigen is for gpt2_bilinear, and GPT2LMHeadModel is none"):
        Eigen().check(random_model("gpt2"), pairs)
