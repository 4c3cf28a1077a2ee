"""The compiled update against plain transformers and torch: gradients, 200 steps, masks, bits."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from pipeline.data.labels import IGNORED
from pipeline.data.rows import Batch, Rows, from_lists
from pipeline.kernels.compiled import CompiledStep
from pipeline.kernels.compiled_check import compiled_step
from pipeline.models.base import Architecture
from pipeline.models.gpt2 import Gpt2
from pipeline.models.pythia import Pythia

WORDS = 53
SIZES: dict[str, Any] = {"n_layer": 2, "n_embd": 36, "n_head": 3, "n_positions": 9, "dropout": 0.0}
# GPT-NeoX in both of its forms; at this width 4 of a head's 12 numbers turn with their position.
KINDS: dict[str, tuple[type[Architecture], dict[str, Any]]] = {
    "gpt2": (Gpt2, {}),
    "parallel": (Pythia, {}),
    "sequential": (Pythia, {"parallel_residual": False}),
}


def rows_of(lengths: list[tuple[int, int]], seed: int = 0) -> Rows:
    """A row for each pair of lengths, of prompt and answer."""
    draw = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(WORDS, (prompt,), generator=draw).tolist() for prompt, _ in lengths]
    return from_lists(prompts, [[sum(row) % WORDS, row[0]][:answer] for row, (_, answer) in zip(prompts, lengths)])


def batch_of(rows: Rows) -> Batch:
    return rows.__getitems__(torch.arange(len(rows)))


def model_of(kind: str = "gpt2", **sizes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    architecture, form = KINDS[kind]
    model = architecture(**{**SIZES, **form, **sizes}).build(WORDS).train()
    with torch.no_grad():  # norms and biases too, which begin as ones and zeros
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def token_losses(logits: torch.Tensor, labels: torch.Tensor, loss: str = "cross_entropy") -> torch.Tensor:
    if loss == "cross_entropy":
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none")
    x = logits.cpu().double()
    share = torch.where(x >= 0, x + 1, 1 / (1 - x.clamp(max=0)))
    share = share / share.sum(-1, keepdim=True)
    return -share.gather(-1, labels.clamp(min=0)[..., None])[..., 0].log()[labels != IGNORED]


def step_of(model: PreTrainedModel, loss: str = "cross_entropy") -> CompiledStep:
    batch = batch_of(rows_of([(2, 1), (3, 1)]))
    step, reason = compiled_step(model, batch, loss, partial(token_losses, loss=loss))
    assert step is not None, reason
    return step


def loss_of(model: Any, batch: Batch, loss: str = "cross_entropy") -> torch.Tensor:
    """The summed loss by transformers' own forward."""
    logits = model(input_ids=batch["input_ids"]).logits
    chosen = logits[torch.arange(len(logits))[:, None], batch["positions"]]
    return token_losses(chosen, batch["labels"], loss).sum()


EVEN = [(3, 1)] * 20
MIXED = [(2, 2)] * 9 + [(3, 2)] * 14
UNEVEN = [(1, 1), (4, 2), (5, 1), (6, 2), (2, 1), (3, 2), (1, 2)] * 4


@pytest.mark.parametrize("loss", ["cross_entropy", "stablemax"])
@pytest.mark.parametrize(
    ("kind", "sizes", "lengths"),
    [
        ("gpt2", {"n_layer": 1, "n_embd": 128, "n_head": 4}, EVEN),
        ("gpt2", {}, MIXED),
        ("gpt2", {"n_layer": 3, "tie_word_embeddings": False, "activation": "relu", "n_inner": 50}, UNEVEN),
        ("gpt2", {"n_layer": 1, "n_embd": 6, "n_head": 2}, [(1, 1)]),
        ("gpt2", {"n_embd": 520, "n_head": 2}, UNEVEN),  # sums that are cut into blocks
        ("parallel", {"n_layer": 1, "n_embd": 128, "n_head": 4}, EVEN),
        ("sequential", {"n_layer": 1, "n_embd": 128, "n_head": 4}, EVEN),
        ("parallel", {}, MIXED),
        ("parallel", {"rotary_pct": 1.0}, UNEVEN),
        ("sequential", {"n_layer": 3, "tie_word_embeddings": True, "rotary_pct": 0.5, "n_inner": 50}, UNEVEN),
        ("parallel", {"n_layer": 1, "n_embd": 6, "n_head": 1, "rotary_pct": 1.0}, [(1, 1)]),
        ("sequential", {"n_embd": 520, "n_head": 2}, UNEVEN),
    ],
)
def test_gradients_are_those_of_transformers(
    kind: str, sizes: dict[str, Any], lengths: list[tuple[int, int]], loss: str
) -> None:
    """As near to those in float64 as torch's in float32 are."""
    model, batch = model_of(kind, **sizes), batch_of(rows_of(lengths))
    exact, usual = copy.deepcopy(model).cpu().double(), copy.deepcopy(model)
    expected = loss_of(exact, batch, loss) / 7
    expected.backward()
    (loss_of(usual, batch, loss) / 7).backward()
    assert step_of(model, loss).backward(batch, 7.0, 0).item() == pytest.approx(expected.item(), rel=1e-6)
    parameters = [dict(one.named_parameters()) for one in (model, usual, exact)]
    for name in parameters[2]:
        ours, theirs, right = (weights[name].grad for weights in parameters)
        off, its = float((ours - right).norm()), float((theirs - right).norm())
        assert off <= 4 * its + 3e-7 * float(right.norm()) + 1e-7 and off < 1e-4 * float(right.norm()) + 1e-5, name


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_activations_far_from_zero_are_those_of_transformers(activation: str) -> None:
    """GPT-NeoX's own is the GELU that is no approximation; most of what is given it here lies between -15 and 15."""
    config = model_of("sequential").config
    config.hidden_act = activation
    model: Any = type(model_of("sequential"))(config).train()
    with torch.no_grad():
        model.gpt_neox.layers[0].mlp.dense_h_to_4h.bias.copy_(torch.linspace(-15, 15, 4 * SIZES["n_embd"]))
    exact, batch = copy.deepcopy(model).cpu().double(), batch_of(rows_of(UNEVEN))
    loss_of(exact, batch).backward()
    step_of(model).backward(batch, 1.0, 0)
    for part in ("mlp.dense_h_to_4h.bias", "mlp.dense_4h_to_h.weight"):
        ours, right = (one.get_parameter(f"gpt_neox.layers.0.{part}").grad for one in (model, exact))
        torch.testing.assert_close(ours.double(), right, rtol=1e-4, atol=1e-6 * float(right.abs().max()))


def without_free_biases(model: Any, name: str, weight: torch.Tensor) -> torch.Tensor:
    """Without biases of keys that no loss depends on: AdamW makes steps of the rounding of their gradients."""
    if name.endswith("c_attn.bias"):
        return weight.view(3, -1)[::2]
    if name.endswith("query_key_value.bias"):  # what turns with its position is seen
        query, key, value = weight.view(SIZES["n_head"], 3, -1).unbind(1)
        return torch.cat([query, key[:, : 2 * len(model.gpt_neox.rotary_emb.inv_freq)], value], 1)
    return weight


@pytest.mark.parametrize(
    ("kind", "most", "updates"),
    [("gpt2", 0.5, 200), ("gpt2", math.inf, 5), ("parallel", 0.5, 200), ("sequential", 0.5, 200)],
)
def test_200_steps_are_those_of_plain_torch(kind: str, most: float, updates: int) -> None:
    """With decay of matrices only, a rate that changes, and both halves of a batch added up."""
    ours = model_of(kind)
    theirs, rows = copy.deepcopy(ours), rows_of(MIXED * 4)
    step = step_of(ours)

    def optimizer_of(model: PreTrainedModel) -> torch.optim.AdamW:
        groups = [[weight for weight in model.parameters() if (weight.ndim > 1) == is_matrix] for is_matrix in (1, 0)]
        return torch.optim.AdamW(
            [{"params": groups[0], "weight_decay": 0.3}, {"params": groups[1], "weight_decay": 0.0}],
            lr=1.0, betas=(0.9, 0.98), fused=True,
        )  # fmt: skip

    optimizers = optimizer_of(ours), optimizer_of(theirs)
    first, clipped = 0.0, 0
    for update in range(updates):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(update, 20) / 20
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(update))[:40]
        halves = [step.backward(rows.__getitems__(half), 80.0, 0, i > 0) for i, half in enumerate(chosen.chunk(2))]
        assert step.can_update(optimizers[0]) == (update > 0)  # the optimizer's own step makes its state
        if update:
            norm = step.update(optimizers[0], most)
        else:
            norm = torch.nn.utils.clip_grad_norm_(ours.parameters(), most)
            optimizers[0].step()
        expected = loss_of(theirs, rows.__getitems__(chosen)) / 80
        optimizers[1].zero_grad()
        expected.backward()
        its_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), most)
        optimizers[1].step()
        loss, first = sum(map(float, halves)), first or expected.item()
        assert loss == pytest.approx(expected.item(), rel=1e-4)
        assert float(norm) == pytest.approx(float(its_norm), rel=1e-3)
        clipped += float(norm) > most
    # It learned, and was clipped at times, so that the equality says something.
    assert updates < 200 or (loss < 0.3 * first and 20 < clipped < 180)
    for (name, weight), other in zip(ours.named_parameters(), theirs.parameters()):
        state, its_state = optimizers[0].state[weight], optimizers[1].state[other]
        assert state["step"] == its_state["step"] == updates
        pairs = [(weight, other), *((state[part], its_state[part]) for part in ("exp_avg", "exp_avg_sq"))]
        for one, its in pairs:
            one, its = (without_free_biases(ours, name, part) for part in (one, its))
            assert (one - its).norm().item() <= 1e-3 * its.norm().item(), name


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gpt2", "wte.weight"), ("gpt2", "h.0.mlp.c_fc.bias"), ("gpt2", "h.0.attn.c_attn.weight"),
        ("gpt2", "ln_f.bias"),
        ("parallel", "embed_in.weight"), ("parallel", "layers.0.mlp.dense_h_to_4h.bias"),
        ("sequential", "layers.0.attention.query_key_value.weight"), ("parallel", "layers.1.input_layernorm.bias"),
    ],
)  # fmt: skip
def test_what_is_not_a_number_stays_so(bad: float, kind: str, name: str) -> None:
    model, batch = model_of(kind), batch_of(rows_of(EVEN))
    step = step_of(model)
    with torch.no_grad():
        is_embedding = name in ("wte.weight", "embed_in.weight")
        model.base_model.get_parameter(name).view(-1)[slice(None) if is_embedding else 0] = bad
    assert not math.isfinite(step.backward(batch, 1.0, 0).item())
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    optimizer.step()
    assert step.can_update(optimizer) and not math.isfinite(step.update(optimizer, 1.0).item())
    assert any(weight.isnan().any() for weight in model.parameters())


def test_numbers_that_the_model_does_not_have_are_refused() -> None:
    model, rows = model_of(), rows_of(EVEN)
    step = step_of(model)
    for name, bad in (("input_ids", WORDS), ("labels", -1), ("positions", 3)):
        batch = batch_of(rows)
        batch[name] = batch[name].clone()
        batch[name][4, 0] = bad
        with pytest.raises(IndexError, match="none of the model's"):
            step.backward(batch, 1.0, 0)


def test_steps_that_only_the_optimizer_can_make_are_left_to_it() -> None:
    model, batch = model_of(), batch_of(rows_of(EVEN))
    step = step_of(model)
    step.backward(batch, 1.0, 0)
    kinds: list[Any] = [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD]
    plain, *others = [
        *(kind(model.parameters()) for kind in kinds),
        torch.optim.AdamW(model.parameters(), amsgrad=True),
        torch.optim.AdamW([*model.parameters()][:3]),  # the norm is that of all
        hooked := torch.optim.AdamW(model.parameters()),
    ]
    for optimizer in (plain, *others):
        optimizer.step()
    hooked.register_step_pre_hook(lambda *_: None)
    assert step.can_update(plain) and not any(map(step.can_update, others))


def test_models_that_are_not_as_they_come_are_not_taken() -> None:
    batch = batch_of(rows_of(EVEN))

    def reason(change: Any, kind: str = "gpt2") -> str:
        model: Any = model_of(kind)
        change(model)
        step, why = compiled_step(model, batch, "cross_entropy", token_losses)
        assert step is None and why is not None
        return why

    assert "ln_f.bias is not trained" in reason(lambda m: m.transformer.ln_f.bias.requires_grad_(False))
    assert "not in float32" in reason(lambda m: m.to(torch.bfloat16))
    assert "activation" in reason(lambda m: setattr(m.transformer.h[1].mlp, "act", torch.nn.GELU()))
    assert "scaled" in reason(lambda m: setattr(m.transformer.h[1].attn, "scaling", 1.0))
    assert "other weights" in reason(lambda m: setattr(m, "more", torch.nn.Parameter(torch.zeros(1))))
    assert "plain embedding" in reason(lambda m: setattr(m.transformer.wte, "max_norm", 1.0))
    assert "differs" in reason(lambda m: m.transformer.ln_f.register_forward_hook(lambda *inputs: 2 * inputs[-1]))
    assert "is not trained" in reason(lambda m: m.gpt_neox.embed_in.weight.requires_grad_(False), "parallel")
    assert "activation" in reason(lambda m: setattr(m.gpt_neox.layers[1].mlp, "act", torch.nn.SiLU()), "parallel")
    assert "scaled" in reason(lambda m: setattr(m.gpt_neox.layers[1].attention, "scaling", 1.0), "parallel")
    assert "some blocks" in reason(lambda m: setattr(m.gpt_neox.layers[1], "use_parallel_residual", False), "parallel")
    assert "of the type linear" in reason(lambda m: setattr(m.gpt_neox.rotary_emb, "rope_type", "linear"), "parallel")
    assert "other weights" in reason(lambda m: setattr(m.gpt_neox.layers[0].attention.dense, "bias", None), "parallel")
    long = batch_of(rows_of([(40, 1)]))
    assert "longer than" in (compiled_step(model_of(n_positions=50), long, "cross_entropy", token_losses)[1] or "")
    assert compiled_step(model_of(), batch, "stablemax", token_losses) == (None, "its loss differs")
