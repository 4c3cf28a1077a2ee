"""Each field of GPT-2's and GPT-NeoX's configurations trains as in transformers, loss and every gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pipeline.kernels.forward import fast_logits, stock_logits
from tests.variants import OFF, model_of, results, rows

# Every field of the configurations that can change a forward pass, turned alone.
FIELDS: list[tuple[str, str, Any]] = [
    *(("gpt2", "activation_function", name) for name in
      ("relu", "gelu", "silu", "gelu_new", "quick_gelu", "gelu_fast", "laplace", "relu2", "prelu", "tanh", "mish")),
    *(("gpt2", name, 0.0) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")),
    *(("gpt2", name, True) for name in
      ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention")),
    *(("gpt2", name, False) for name in ("scale_attn_weights", "tie_word_embeddings", "is_causal", "use_cache")),
    ("gpt2", "n_inner", 48), ("gpt2", "n_head", 2), ("gpt2", "n_embd", 64), ("gpt2", "n_layer", 1),
    ("gpt2", "layer_norm_epsilon", 0.01), ("gpt2", "initializer_range", 0.3), ("gpt2", "attn_implementation", "eager"),
    ("gpt2", "pad_token_id", 0), ("gpt2", "sliding_window", 2), ("gpt2", "chunk_size_feed_forward", 2),
    *(("gpt_neox", "hidden_act", name) for name in ("relu", "silu", "gelu_new")),
    *(("gpt_neox", name, False) for name in ("use_parallel_residual", "attention_bias", "is_causal", "use_cache")),
    ("gpt_neox", "rotary_pct", 0.5), ("gpt_neox", "rotary_pct", 1.0), ("gpt_neox", "rotary_emb_base", 100),
    ("gpt_neox", "rope_parameters", {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}),
    ("gpt_neox", "rope_parameters", {"rope_type": "yarn", "factor": 3.0, "rope_theta": 1e4,
                                     "original_max_position_embeddings": 16}),
    ("gpt_neox", "tie_word_embeddings", True), ("gpt_neox", "layer_norm_eps", 0.01), ("gpt_neox", "is_decoder", True),
    ("gpt_neox", "initializer_range", 0.3), ("gpt_neox", "attn_implementation", "eager"),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "field", "value"), FIELDS, ids=[f"{f[0]}-{f[1]}-{str(f[2])[:8]}" for f in FIELDS])
def test_each_field_of_a_configuration_trains_as_in_transformers(
    family: str, field: str, value: Any, dtype: torch.dtype
) -> None:
    fields = {**dict.fromkeys(OFF[family], 0.0), field: value}
    model = model_of(family, **fields).to(dtype)
    # Half precision is to be no further from the exact gradients than transformers is.
    _, exact = results(copy.deepcopy(model).double(), stock_logits)
    theirs, their_gradients = results(model, stock_logits)
    logits, why = fast_logits(model, family, rows())
    assert (why is None) == (field != "is_causal"), why
    ours, gradients = results(model, logits)
    assert ours == pytest.approx(theirs, rel=1e-5 if dtype is torch.float32 else 0.01)
    largest = max(float(gradient.norm()) for gradient in exact.values() if gradient is not None)
    total = torch.zeros(2)
    for name, gradient in exact.items():
        one, other = gradients[name], their_gradients[name]
        assert (one is None) == (other is None) == (gradient is None), name
        if one is not None and other is not None and gradient is not None:
            off = torch.stack([(part.double() - gradient).norm() for part in (one, other)])
            total += off**2
            assert dtype is torch.bfloat16 or off[0] <= 2 * off[1] + 1e-5 * largest, name
    # A ReLU whose input is 0 but for rounding has the one slope or the other.
    assert total[0] <= 2 * total[1] + (0.1 * largest) ** 2


# At a probability of 1 dropout draws nothing, so that where it stands is seen exactly.
@pytest.mark.parametrize(
    ("family", "field"), [(family, field) for family, fields in OFF.items() for field in fields]
)  # fmt: skip
def test_dropout_stands_where_transformers_has_it(family: str, field: str) -> None:
    model = model_of(family, **{**dict.fromkeys(OFF[family], 0.0), field: 1.0}, initializer_range=0.2)
    theirs, their_gradients = results(model, stock_logits)
    logits, why = fast_logits(model, family, rows())
    assert why is None
    ours, gradients = results(model, logits)
    assert ours == pytest.approx(theirs, rel=1e-5)
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5)
