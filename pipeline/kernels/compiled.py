"""The update of GPT-2 and GPT-NeoX as compiled code: gradients of a batch, their norm, and AdamW.

What is fused, in `native/`, and why. One call takes the place of some 1,300 operators for each block and batch, whose
starts and temporary tensors are half of a small model's time; all numbers lie in one piece of memory that is kept.

| file | loop | in place of |
|---|---|---|
| products.h | c (+)= a b, tiles in registers | a library's product, and copies of what lies turned |
| linear.h | y = x W and its gradients, for nn.Linear and Conv1D | |
| heads.h | GPT-NeoX's weights of q, k, v, each beside its own | cutting and copying activations |
| attention.h | biases of q, k, v; softmax; dropout; weighted sum; backward | a kernel made for hundreds of tokens |
| rotary.h | turning queries and keys in place, and gradients back | 8 passes over both |
| forward.h, `residual` | x + dropout(product + bias), then the next LayerNorm | 5 passes over memory |
| backward.h, `norm_backward` | LayerNorm backward onto dx, dropout backward, 3 sums over rows | 6 passes |
| functions.h | bias, activation, and its derivative for later | 3 passes forward, the activation again backward |
| loss.h | exp or StableMax's slope in place of logits; its factor goes into narrow states | 5 passes over logits |
| dropout.h | masks from a counter, made again in the backward pass | drawing, storing and reading masks |
| adamw.h | clipping and AdamW in one pass | 2 passes, and one call a tensor |

Weights, gradients and the optimizer's state stay torch's tensors, each where it was; nothing else need know of this.
Masks follow from the seed and the update, so that a run that is resumed finds the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.data.rows import Batch
from pipeline.kernels.compiled_layout import FAMILIES, WeightLayout


class Sizes(ctypes.Structure):
    """The struct of step.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "rows", "length", "answers", "words", "width", "inner", "heads", "layers", "places", "pairs", "threads",
            "activation", "is_neox", "is_parallel", "is_tied", "is_stablemax",
            "dropped_embedding", "dropped_attention", "dropped_residual",
        )),
        ("key", ctypes.c_uint64), ("targets", ctypes.c_double), ("epsilon", ctypes.c_float),
    ]  # fmt: skip


class Settings(ctypes.Structure):
    """The struct of adamw.h."""

    _fields_ = [(name, ctypes.c_double) for name in ("rate", "decay", "beta1", "beta2", "epsilon")]


class CompiledStep:
    """Gradients of a model by the compiled code, and AdamW's step with them."""

    def __init__(self, model: Any, library: ctypes.CDLL, loss: str = "cross_entropy"):
        self.library = library
        library.groklab_room.restype = ctypes.c_int64
        library.groklab_norm.restype = ctypes.c_float
        self.layout = WeightLayout(model, FAMILIES[model.config.model_type])
        self.weights: list[torch.Tensor] = [*map(model.get_parameter, self.layout.names())]
        self.sizes = Sizes(**self.layout.sizes(), is_stablemax=loss == "stablemax")
        self.rotation = self.layout.rotation(1)
        # Gradients beside each other, each at a multiple of 64 bytes; what is between them stays 0.
        starts = [0]
        for weight in self.weights:
            starts.append(starts[-1] + -(-weight.numel() // 16) * 16)
        self.flat = torch.zeros(starts[-1])
        self.gradients = [
            self.flat[start : start + weight.numel()].view_as(weight) for start, weight in zip(starts, self.weights)
        ]
        self.room = torch.empty(0)
        self.pointers = ctypes.c_void_p * len(self.weights)
        self.gradient_of = {id(weight): gradient for weight, gradient in zip(self.weights, self.gradients)}
        self.at_gradients = self._at(self.gradients)

    def _at(self, tensors: Sequence[torch.Tensor]) -> Any:
        return self.pointers(*(tensor.data_ptr() for tensor in tensors))

    def is_usable(self) -> bool:
        """Whether the model is still one that the compiled code computes, whatever callbacks did to it."""
        are_trained = all(
            weight.requires_grad and weight.dtype == torch.float32 and weight.is_contiguous() for weight in self.weights
        )
        return are_trained and self.dropped() is not None

    def dropped(self) -> list[int] | None:
        """Of 65,536 values, how many are dropped of embeddings, attention and residuals; None where layers differ."""
        rates = self.layout.rates()
        if any(len(places) > 1 for places in rates):
            return None
        found = [round(rate * 65536) for (rate,) in rates]
        return None if max(found) > 65535 else found

    def backward(self, batch: Batch, targets: float, key: int, adds: bool = False) -> torch.Tensor:
        """The summed loss of a batch over `targets`; gradients take the place of those there are, or are added.

        Args:
            batch: Its rows.
            targets: What the sum is divided by.
            key: Of the masks of this batch, below 2**64.
            adds: Whether there are gradients of the same update.
        """
        tokens, positions, labels = (batch[name].contiguous() for name in ("input_ids", "positions", "labels"))
        sizes, dropped = self.sizes, self.dropped()
        assert dropped is not None
        sizes.rows, sizes.length = tokens.shape
        sizes.answers, sizes.threads = labels.shape[1], torch.get_num_threads()
        sizes.dropped_embedding, sizes.dropped_attention, sizes.dropped_residual = dropped
        sizes.key, sizes.targets = key, targets
        floats = self.library.groklab_room(ctypes.byref(sizes))
        if len(self.room) < floats:
            self.room = torch.empty(floats)
        if len(self.rotation) < sizes.length:
            self.rotation = self.layout.rotation(sizes.length)
        loss, given = torch.empty(()), (self.room, tokens, positions, labels, self.rotation)
        arrays = [ctypes.c_void_p(tensor.data_ptr()) for tensor in given]
        status = self.library.groklab_gradients(
            ctypes.byref(sizes), self._at(self.weights), self.at_gradients, *arrays, int(adds),
            ctypes.c_void_p(loss.data_ptr()),
        )  # fmt: skip
        if status:
            raise IndexError("a token, label or position of the batch is none of the model's")
        for weight, gradient in zip(self.weights, self.gradients):
            weight.grad = gradient
        return loss

    def can_update(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether `update` does what the optimizer's own step would.

        Only its own will do for another optimizer than AdamW, where there are hooks that do not say that they act on
        gradients in place, and the first time, as it makes its state then.
        """
        return is_adamw(optimizer) and all(map(has_state, self.weights, map(optimizer.state.get, self.weights)))

    def update(self, optimizer: torch.optim.Optimizer, most: float) -> torch.Tensor:
        """Clips the gradients to a norm of at most `most`, lets hooks change them, and makes AdamW's step.

        Returns:
            Their norm before.
        """
        flat = ctypes.c_void_p(self.flat.data_ptr())
        norm = torch.tensor(self.library.groklab_norm(ctypes.c_int64(len(self.flat)), flat))
        clip = (most / (norm + 1e-6)).clamp(max=1.0)  # as torch clips, also what is not a number
        if optimizer._optimizer_step_pre_hooks:
            self.flat.mul_(clip)
            clip = torch.ones(())
            for hook in optimizer._optimizer_step_pre_hooks.values():
                hook(optimizer, (), {})
        for group in optimizer.param_groups:
            weights, states = group["params"], [optimizer.state[weight] for weight in group["params"]]
            count, array = len(weights), ctypes.c_void_p * len(weights)
            columns: list[list[torch.Tensor]] = [weights, [self.gradient_of[id(weight)] for weight in weights]]
            columns += [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")]
            self.library.groklab_adamw(
                ctypes.byref(Settings(group["lr"], group["weight_decay"], *group["betas"], group["eps"])),
                torch.get_num_threads(), ctypes.c_int64(count),
                (ctypes.c_int64 * count)(*(weight.numel() for weight in weights)),
                *(array(*(tensor.data_ptr() for tensor in column)) for column in columns), ctypes.c_float(float(clip)),
            )  # fmt: skip
        return norm


def has_state(weight: torch.Tensor, state: dict[str, torch.Tensor] | None) -> bool:
    """Whether an optimizer keeps what AdamW needs of a weight, in float32."""
    if not state:
        return False
    return (
        {*state} == {"step", "exp_avg", "exp_avg_sq"}
        and all(part.dtype == torch.float32 and part.is_contiguous() for part in state.values())
        and state["exp_avg"].shape == state["exp_avg_sq"].shape == weight.shape
    )  # fmt: skip


def is_adamw(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of an optimizer is AdamW as it comes, after changes of gradients in place at most."""
    groups = optimizer.param_groups
    return (
        type(optimizer) is torch.optim.AdamW
        and all(getattr(hook, "acts_in_place", False) for hook in optimizer._optimizer_step_pre_hooks.values())
        and not optimizer._optimizer_step_post_hooks
        and not any(group["amsgrad"] or group["maximize"] or isinstance(group["lr"], torch.Tensor) for group in groups)
    )
