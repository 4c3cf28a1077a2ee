"""Linear layers that multiply by oneDNN, on the CPUs where that is twice as fast.

CPU builds of torch multiply float32 matrices by MKL, which uses AVX-512 on Intel's processors only. oneDNN, which such
a build brings too and uses for half precision, has no such preference: on one core of an AMD EPYC with AVX-512 the
same products reach 220 GFLOP/s instead of 100 (`python tests/benchmarks/bench_step.py` prints both).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

Model = TypeVar("Model", bound=nn.Module)
PACKED: dict[torch.Tensor, torch.Tensor] = {}  # by weight, hashed by identity
SMALL = 2**20  # multiplications below which the call costs more than the product


def quicken(model: nn.Module) -> None:
    """Lets every Linear and Conv1D layer multiply by the faster library of this machine.

    The layers change their class and nothing else: weights, names, hooks and copies are as they were, and results are
    the same up to rounding. Nothing happens where MKL is as fast, or where there is no oneDNN.
    """
    if is_faster():
        swap(model)


@functools.cache
def is_faster() -> bool:
    """Whether this processor has AVX-512 and MKL does not use it."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkl.is_available():
        return False
    try:
        vendor = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("vendor_id", 1)[1].split("\n", 1)[0]
    except (OSError, IndexError):
        return False
    return torch.backends.mkldnn.is_available() and "GenuineIntel" not in vendor and _multiplies()


def _multiplies() -> bool:
    """Whether this torch has oneDNN's products under the names, and with the meaning, that are used here."""
    left, right = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    try:
        ready = torch.ops.mkldnn._reorder_linear_weight(right, None)
        found = multiply(left, right), multiply(left, ready)
    # The private names are gone from this torch, or take other arguments: a RuntimeError in C++, a TypeError in Python.
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(product, left @ right.T) for product in found)


def swap(model: nn.Module) -> None:
    """Gives the model's layers the classes below, whatever the processor."""
    for module in model.modules():
        if type(module) in QUICK:
            module.__class__ = QUICK[type(module)]


def plain(model: Model) -> Model:
    """Gives the model's layers their own classes again; returns the model."""
    usual = {quick: own for own, quick in QUICK.items()}
    for module in model.modules():
        module.__class__ = usual.get(type(module), type(module))
    return model


@contextmanager
def packed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block, in which no weight may change, their layers' weights also lie in the order that oneDNN reads.

    That takes their memory once more and the time of a product of some 150 rows, and saves a tenth of each product that
    is to have no gradient. Results are the same, bit by bit.
    """
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, tuple(QUICK.values()))]
    weights: dict[torch.Tensor, torch.Tensor] = {}
    for layer in layers:
        if layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32:
            weights[layer.weight] = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
    try:
        for weight, turned in weights.items():
            PACKED[weight] = torch.ops.mkldnn._reorder_linear_weight(turned.detach(), None)
        yield
    finally:
        for weight in weights:
            PACKED.pop(weight, None)


class QuickLinear(nn.Linear):
    """`nn.Linear`, with float32 products on a CPU by oneDNN."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if _is_ours(input, self.weight):
            return _product(input, self.weight, self.bias, False)
        return super().forward(input)


class QuickConv1D(Conv1D):
    """GPT-2's linear layer, whose weight is (in, out), with float32 products on a CPU by oneDNN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if _is_ours(x, self.weight):
            return _product(x, self.weight, self.bias, True)
        return super().forward(x)


QUICK: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: QuickLinear, Conv1D: QuickConv1D}


def _is_ours(input: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and input.numel() // input.shape[-1] * weight.numel() >= SMALL
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def multiply(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """left (..., K) times right (N, K), both transposed: (..., N)."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


def _product(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, is_turned: bool) -> torch.Tensor:
    ready = None if torch.is_grad_enabled() else PACKED.get(weight)
    return _Product.apply(input, weight, bias, is_turned) if ready is None else multiply(input, ready, bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, is_turned: bool) -> Any:
        ctx.save_for_backward(input, weight)
        ctx.is_turned = is_turned
        return multiply(input, weight.t() if is_turned else weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias, _ = ctx.needs_input_grad
        rows, grads = input.flatten(0, -2), grad.flatten(0, -2)
        return (
            multiply(grad, weight if ctx.is_turned else weight.t()) if of_input else None,
            _over_rows(*((rows, grads) if ctx.is_turned else (grads, rows))) if of_weight else None,
            grads.sum(0) if of_bias else None,
            None,
        )


def _over_rows(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left (N, I) transposed times right (N, J): (I, J)."""
    # oneDNN gets its left operand copied into its order, so the narrower one is put there.
    if left.shape[1] <= right.shape[1]:
        return multiply(left.t(), right.t())
    return multiply(right.t(), left.t()).t()
