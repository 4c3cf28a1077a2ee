"""GPT-2 and GPT-NeoX forward as training here needs it: short rows in, logits at the answer positions out.

The weights and modules are transformers' own; three things are done otherwise, none of which changes the result beyond
rounding. The last block computes keys and values for a whole row and everything else at the answer positions only.
Attention over a few tokens is written out query by query, since attention kernels are made for hundreds of tokens and
spend their time on tiles that are almost empty. On a CPU, dropout draws 16 random bits a value instead of a float.

Tensor names carry their shape: B rows, L tokens, A answer tokens, H heads, C width of a head, D width, V vocabulary.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GPT2LMHeadModel, GPTNeoXForCausalLM, PreTrainedModel
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

from pipeline.data.rows import AnswerPositions, Batch, Rows
from pipeline.kernels.dropout import dropout
from pipeline.kernels.forward_check import foreign_hooks, hook_tables, why_not
from pipeline.utils.log import log

# Positions of the answers (B, A), or A, when they are the last A positions of every row.
Answers = torch.Tensor | int
HAS_FORWARD = methodcaller("__contains__", "forward")
SHORT = 6  # tokens up to which attention is written out
# (model, batch) -> logits (B, A, V) at the batch's answer positions; the model may be wrapped.
Logits = Callable[[nn.Module, Batch], torch.Tensor]


def stock_logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The model's own logits at every position, of which those at the answers are taken."""
    return take(model(input_ids=batch["input_ids"], use_cache=False).logits, batch["positions"])


def short_logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits by way of `install`."""
    return model(input_ids=batch["input_ids"], answers=batch["tail"] or batch["positions"])


def fast_logits(
    model: PreTrainedModel, family: str | None, sample: Rows, compiled: bool = False
) -> tuple[Logits, str | None]:
    """The fastest way to the logits that gives what the model itself gives, and why it is not ours.

    Only a model that `family` is declared of, and that is found to compute just that, takes the short forward. Another
    computes its hidden states itself, and its output projection alone is limited to the answers, where it can be.
    """
    batch = sample.to(model.device).__getitems__(torch.arange(len(sample), device=model.device))
    reason = why_not(
        model, family, lambda model: stock_logits(model, batch), install, lambda model: short_logits(model, batch)
    )
    if reason is not None:
        return _narrow_logits(model, batch), reason
    install(model, compiled)
    return Guarded(model), None


def _narrow_logits(model: PreTrainedModel, batch: Batch) -> Logits:
    """The model's own way, with its output projection at the answers alone where that changes nothing."""
    projection = model.get_output_embeddings()
    if not isinstance(projection, nn.Module):
        return stock_logits
    head = AnswerPositions(projection)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            theirs, ours = stock_logits(model, batch).float(), head.logits(model, batch).float()
        is_same = theirs.shape == ours.shape and torch.allclose(ours, theirs, rtol=0, atol=1e-2 * float(theirs.std()))
    except (
        IndexError,
        RuntimeError,
        ValueError,
    ):  # a projection that also runs on something else than the hidden states
        is_same = False
    model.train(was_training)
    if is_same:
        return head.logits
    head.remove()
    return stock_logits


class Guarded:
    """`short_logits` for a model as it was found: once a hook or another forward is put into it, its own way."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.hooks = hook_tables(model.modules())
        # Of the model and its blocks the forward is ours, or in it; none else is to have another.
        self.plain = [vars(module) for module in model.modules() if "forward" not in vars(module)]

    def is_as_found(self) -> bool:
        """Whether no other forward has been put into the model, nor a hook but those of libraries that shard it."""
        return not any(map(HAS_FORWARD, self.plain)) and not (any(self.hooks) and any(foreign_hooks(self.model)))

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return short_logits(model, batch) if self.is_as_found() else stock_logits(model, batch)


def install(model: PreTrainedModel, compiled: bool = False) -> None:
    """Lets `model(input_ids=..., answers=...)` return logits (B, A, V); without `answers` the model is as it was.

    The way goes through the model's and the blocks' own `forward`, so that DDP and DeepSpeed wrap them as usual.
    `compiled`: training goes through torch.compile.
    """
    block: Callable[..., torch.Tensor]
    if isinstance(model, GPT2LMHeadModel):
        _extend(model, _gpt2)
        stack, block = model.transformer.h, _gpt2_block
    else:
        assert isinstance(model, GPTNeoXForCausalLM)
        _extend(model, _gpt_neox)
        stack, block = model.gpt_neox.layers, _gpt_neox_block
    # All blocks share what is compiled for one of them.
    way = Compiled(block) if compiled else block
    for number in range(len(stack)):  # iterating over a looped stack gives its blocks several times
        _extend(stack[number], way)


class Compiled:
    """The forward of a block that training runs compiled, and evaluation, whose batches have other shapes, as it is."""

    def __init__(self, forward: Callable[..., torch.Tensor]):
        self.forward = forward
        self.compiled: Callable[..., torch.Tensor] | None = torch.compile(forward, dynamic=False)

    def __call__(self, block: nn.Module, *inputs: Any, **kwargs: Any) -> torch.Tensor:
        if self.compiled is None or not block.training:
            return self.forward(block, *inputs, **kwargs)
        try:
            return self.compiled(block, *inputs, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            self.compiled = None
            lines = [line for line in str(error).splitlines() if line.strip()]
            log.info(f"the step is not compiled: {lines[0] if lines else type(error).__name__}")
            return self.forward(block, *inputs, **kwargs)


def _extend(module: nn.Module, ours: Callable[..., torch.Tensor]) -> None:
    """Adds our way to a module's forward, taken when it is called with `answers`."""
    usual = type(module).forward

    @functools.wraps(usual)
    def forward(self: nn.Module, *inputs: Any, **kwargs: Any) -> Any:
        return ours(self, *inputs, **kwargs) if "answers" in kwargs else usual(self, *inputs, **kwargs)

    # Bound to the module, so that a deep copy computes with its own weights.
    module.forward = types.MethodType(forward, module)


def take(hidden_BLX: torch.Tensor, answers: Answers | None) -> torch.Tensor:
    """The hidden states at the answer positions, (B, A, X); all of them for None."""
    if answers is None:
        return hidden_BLX
    if isinstance(answers, int):
        return hidden_BLX[:, -answers:]
    starts_B1 = torch.arange(len(hidden_BLX), device=hidden_BLX.device)[:, None] * hidden_BLX.shape[1]
    # A lookup of rows: its backward adds into rows three times faster than that of gather or indexing on CPU.
    return F.embedding(starts_B1 + answers, hidden_BLX.flatten(0, 1))


def attend(
    query_BQHC: torch.Tensor,
    key_BLHC: torch.Tensor,
    value_BLHC: torch.Tensor,
    answers: Answers | None,
    p: float,
) -> torch.Tensor:
    """Causal attention with queries scaled beforehand, (B, Q, H, C): of all positions, or of the answer positions."""
    queries, length = query_BQHC.shape[1], key_BLHC.shape[1]
    if length > SHORT:
        seen = None if answers is None else _seen(answers, length, query_BQHC)[:, None]
        mixed_BHQC = F.scaled_dot_product_attention(
            query_BQHC.transpose(1, 2), key_BLHC.transpose(1, 2), value_BLHC.transpose(1, 2),
            attn_mask=seen, dropout_p=p, is_causal=answers is None, scale=1.0,
        )  # fmt: skip
        return mixed_BHQC.transpose(1, 2)
    dtype = query_BQHC.dtype
    # Products of half precision are summed in float32, as attention kernels do.
    query, key, value = (part.float().unbind(1) for part in (query_BQHC, key_BLHC, value_BLHC))
    hidden_BQL = ~_seen(answers, length, query_BQHC) if isinstance(answers, torch.Tensor) else None
    mixed = []
    for place in range(queries):
        # Where answers stand at other positions in other rows, each looks at all keys, through a mask.
        last = length - queries + place + 1 if hidden_BQL is None else length
        score_BHL = torch.stack([(query[place] * key[seen]).sum(-1) for seen in range(last)], -1)
        if hidden_BQL is not None:
            score_BHL = score_BHL.masked_fill(hidden_BQL[:, place, None], -torch.inf)
        weight_BHL = dropout(score_BHL.softmax(-1), p, training=True)
        mixed.append(_weighted_sum(weight_BHL, value))
    return torch.stack(mixed, 1).to(dtype)


def _weighted_sum(weight_BHL: torch.Tensor, value: Sequence[torch.Tensor]) -> torch.Tensor:
    total_BHC = weight_BHL[..., 0, None] * value[0]
    for seen in range(1, weight_BHL.shape[-1]):
        total_BHC = total_BHC + weight_BHL[..., seen, None] * value[seen]
    return total_BHC


def _seen(answers: Answers, length: int, like: torch.Tensor) -> torch.Tensor:
    """Which positions each answer may look at: (B, A, L), or (1, A, L) when they are the same in every row."""
    place_L = torch.arange(length, device=like.device)
    answer_BA = place_L[None, -answers:] if isinstance(answers, int) else answers
    return place_L <= answer_BA[..., None]


def _gpt2(model: Any, *, input_ids: torch.Tensor, answers: Answers) -> torch.Tensor:
    body = model.transformer
    place_L = torch.arange(input_ids.shape[1], device=input_ids.device)
    hidden = dropout(body.wte(input_ids) + body.wpe(place_L), body.drop.p, model.training)
    *first, last = list(body.h)
    for block in first:
        hidden = block(hidden, answers=None)
    return model.lm_head(body.ln_f(last(hidden, answers=answers)))


def _gpt2_block(block: Any, hidden_BLD: torch.Tensor, *, answers: Answers | None) -> torch.Tensor:
    attention, mlp, training = block.attn, block.mlp, block.training
    heads = (*hidden_BLD.shape[:2], attention.num_heads, attention.head_dim)
    query, key, value = attention.c_attn(block.ln_1(hidden_BLD)).split(attention.split_size, dim=2)
    query_BQHC = take(query, answers).unflatten(2, heads[2:]) * attention.scaling
    p = attention.attn_dropout.p if training else 0.0
    mixed_BQD = attend(query_BQHC, key.view(heads), value.view(heads), answers, p).flatten(2)
    hidden = take(hidden_BLD, answers) + dropout(attention.c_proj(mixed_BQD), attention.resid_dropout.p, training)
    return hidden + dropout(mlp.c_proj(mlp.act(mlp.c_fc(block.ln_2(hidden)))), mlp.dropout.p, training)


def _gpt_neox(model: Any, *, input_ids: torch.Tensor, answers: Answers) -> torch.Tensor:
    body = model.gpt_neox
    hidden = dropout(body.embed_in(input_ids), body.emb_dropout.p, model.training)
    rotation = body.rotary_emb(hidden, position_ids=torch.arange(input_ids.shape[1], device=input_ids.device)[None])
    *first, last = body.layers
    for block in first:
        hidden = block(hidden, rotation, answers=None)
    return model.get_output_embeddings()(body.final_layer_norm(last(hidden, rotation, answers=answers)))


def _gpt_neox_block(
    block: Any, hidden_BLD: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], *, answers: Answers | None
) -> torch.Tensor:
    attention, training = block.attention, block.training
    heads = (*hidden_BLD.shape[:2], -1, 3 * attention.head_size)
    states_BLHX = attention.query_key_value(block.input_layernorm(hidden_BLD)).view(heads)
    query, key, value = states_BLHX.chunk(3, dim=-1)
    query, key = apply_rotary_pos_emb(query, key, *rotation, unsqueeze_dim=2)
    query_BQHC = take(query.flatten(2), answers).unflatten(2, query.shape[2:]) * attention.scaling
    mixed_BQD = attend(query_BQHC, key, value, answers, attention.attention_dropout if training else 0.0).flatten(2)
    mixed_BQD = dropout(attention.dense(mixed_BQD), block.post_attention_dropout.p, training)
    hidden = take(hidden_BLD, answers)
    attended = hidden + mixed_BQD
    inner = block.mlp(block.post_attention_layernorm(hidden if block.use_parallel_residual else attended))
    return attended + dropout(inner, block.post_mlp_dropout.p, training)
