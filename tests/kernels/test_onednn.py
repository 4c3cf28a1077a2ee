"""Products by oneDNN: the same as torch's own, in the same layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from pipeline.kernels import onednn as products
from pipeline.kernels.onednn import QUICK, quicken, swap


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """No test knows what another has been told of the processor."""
    products.is_faster.cache_clear()
    yield
    products.is_faster.cache_clear()


def layer_of(kind: type[nn.Module], bias: bool = True) -> Any:
    torch.manual_seed(0)
    layer: Any = nn.Linear(96, 160, bias=bias) if kind is nn.Linear else Conv1D(160, 96)
    if bias:
        nn.init.normal_(layer.bias)
    return layer


def results(layer: Any, rows: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    """What the layer gives, and the gradients of input, weight and bias."""
    rows = rows.detach().requires_grad_()
    given = layer(rows)
    (given * weights).sum().backward()
    found = [given.detach(), rows.grad, *(parameter.grad for parameter in layer.parameters())]
    layer.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("shape", [(128, 96), (40, 5, 96), (2, 96)])
@pytest.mark.parametrize(("kind", "bias"), [(nn.Linear, True), (nn.Linear, False), (Conv1D, True)])
@pytest.mark.parametrize("is_turned", [False, True])
def test_results_and_gradients_are_torchs(
    kind: type[nn.Module], bias: bool, shape: tuple[int, ...], is_turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "SMALL", 0)
    layer = layer_of(kind, bias)
    rows, weights = torch.randn(shape), torch.randn(*shape[:-1], 160)
    if is_turned:  # in another order in memory
        weights = weights.transpose(0, -1).contiguous().transpose(0, -1)
        if kind is nn.Linear:  # Conv1D of transformers takes no such input
            rows = rows.transpose(0, -1).contiguous().transpose(0, -1)
    expected = results(layer, rows, weights)
    swap(layer)
    assert type(layer) is QUICK[kind] and isinstance(layer, kind)
    for ours, theirs in zip(results(layer, rows, weights), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_only_float32_on_a_cpu_is_taken(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SMALL", 0)
    calls = []
    monkeypatch.setattr(products, "multiply", lambda *parts: calls.append(parts) or torch.zeros(4, 160))
    layer = layer_of(kind)
    swap(layer)
    rows = torch.randn(4, 96)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(rows).dtype == torch.bfloat16
    assert layer.double()(rows.double()).dtype == torch.float64
    assert not calls
    layer.float()(rows)
    monkeypatch.setattr(products, "SMALL", 10**6)
    layer(rows)
    assert len(calls) == 1


def test_a_copy_has_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SMALL", 0)
    layer = layer_of(nn.Linear)
    names = list(layer.state_dict())
    swap(layer)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.zero_()
    rows = torch.randn(8, 96)
    assert list(other.state_dict()) == names
    assert torch.equal(other(rows), other.bias.expand(8, 160)) and layer(rows).std() > 0.1
    assert torch.equal(functional_call(layer, dict(other.named_parameters()), rows), other(rows))


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_packed_weights_give_the_same_bits(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SMALL", 0)
    model = nn.Sequential(layer_of(kind), nn.GELU(), nn.Linear(160, 8).double())
    swap(model)
    rows, weights = torch.randn(70, 96), torch.randn(70, 160)
    expected, with_gradients = model[0](rows).detach(), results(model[0], rows, weights)
    used = []
    multiply = products.multiply
    monkeypatch.setattr(
        products, "multiply", lambda left, right, *bias: used.append(right.is_mkldnn) or multiply(left, right, *bias)
    )
    with products.packed([model]):
        assert list(products.PACKED) == [model[0].weight]  # float64 is not for oneDNN
        with torch.no_grad():
            assert torch.equal(copy.copy(model[0])(rows), expected) and used == [True]
        assert all(map(torch.equal, results(model[0], rows, weights), with_gradients)) and not any(used[1:])
    assert not products.PACKED


@pytest.mark.parametrize(("vendor", "swapped"), [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_intels_processors_keep_mkl(vendor: str, swapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products.Path, "read_text", lambda path, **_: f"vendor_id\t: {vendor}\nmodel name\t: a CPU\n")
    layer = layer_of(nn.Linear)
    quicken(layer)
    assert (type(layer) is not nn.Linear) == swapped


def test_products_that_this_torch_lacks_or_means_otherwise_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(
        products.Path, "read_text", lambda path, **_: "vendor_id\t: AuthenticAMD\nmodel name\t: a CPU\n"
    )
    assert products.is_faster() == torch.backends.mkldnn.is_available()
    operators = torch.ops.mkldnn
    linear, reorder = operators._linear_pointwise, operators._reorder_linear_weight

    class Mkldnn:
        """The operators of another torch."""

        def __init__(self, **found: Any):
            self.__dict__.update(found)

    others = [
        Mkldnn(),
        Mkldnn(_linear_pointwise=linear),
        Mkldnn(_linear_pointwise=lambda left, right: left @ right.T, _reorder_linear_weight=reorder),
        Mkldnn(_linear_pointwise=lambda left, right, *_: left @ right.T + 1, _reorder_linear_weight=reorder),
    ]
    for other in others:
        products.is_faster.cache_clear()
        monkeypatch.setattr(torch.ops, "mkldnn", other)
        layer = layer_of(nn.Linear)
        quicken(layer)
        assert type(layer) is nn.Linear and layer(torch.randn(4, 96)).shape == (4, 160)


def test_no_processor_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(products.Path, "read_text", lambda path, **_: "")
    assert not products.is_faster()
    products.is_faster.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not products.is_faster()
