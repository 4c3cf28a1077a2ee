"""A factorized embedding is the product, and takes the rows of another model by the words of the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import GPT2LMHeadModel

from pipeline.circuits._architectures import token_rows
from pipeline.corpora.group import Group
from pipeline.corpora.store import build
from pipeline.data.tokenizer import build_tokenizer
from pipeline.kernels.forward import fast_logits
from pipeline.models.gpt2 import Gpt2
from pipeline.models.gpt2_factorized import Gpt2Factorized
from pipeline.models.gpt2_kv_shift import Gpt2KvShift
from pipeline.runs.manifest import Manifest
from pipeline.utils.errors import ParameterError
from tests.tiny import SHORT, run_here, write_recipe
from tests.variants import rows

SIZES: dict[str, Any] = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16, "dropout": 0.0}


@pytest.fixture
def weak(tmp_path: Path) -> Path:
    """A narrow model whose tokenizer has the words of the corpus the other way round, and more of them."""
    words = build(Group.tiny()).tokens
    torch.manual_seed(1)
    Gpt2(**{**SIZES, "n_embd": 8}).build(len(words) + 1).save_pretrained(tmp_path / "weak")
    build_tokenizer(["more", *reversed(words)], " ").save_pretrained(tmp_path / "weak")
    return tmp_path / "weak"


def plain(model: Any) -> GPT2LMHeadModel:
    """transformers' GPT-2 with the product as its embedding."""
    twin = Gpt2(**SIZES, tie_word_embeddings=False).build(model.config.vocab_size).eval()
    wte = model.transformer.wte
    with torch.no_grad():
        maps = wte.projection.weight.T
        product = torch.stack([sum(x * row for x, row in zip(each, maps)) for each in wte.weight])
    state = {key: weight for key, weight in model.state_dict().items() if ".wte." not in key}
    twin.load_state_dict({**state, "transformer.wte.weight": product})
    assert isinstance(twin, GPT2LMHeadModel)
    return twin


def test_it_computes_what_gpt2_does_with_the_product_as_its_embedding() -> None:
    torch.manual_seed(0)
    model: Any = Gpt2Factorized(**SIZES, rank=5, initializer_range=0.3).build(24).eval()
    twin, tokens = plain(model), torch.randint(0, 24, (3, 9))
    torch.testing.assert_close(model(tokens).logits, twin(tokens).logits, atol=1e-5, rtol=1e-5)
    # Both factors are trained: their gradients are those of the product, by the chain rule.
    for one in (model, twin):
        F.cross_entropy(one(tokens).logits[:, -1], tokens[:, 0]).backward()
    wte, slope_VD = model.transformer.wte, twin.transformer.wte.weight.grad
    torch.testing.assert_close(wte.weight.grad, slope_VD @ wte.projection.weight, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(wte.projection.weight.grad, slope_VD.T @ wte.weight, atol=1e-6, rtol=1e-4)
    assert model.lm_head.weight.shape == (24, 32)


def test_what_is_drawn_is_a_random_projection_and_as_large_as_gpt2_s_embedding() -> None:
    torch.manual_seed(0)
    model: Any = Gpt2Factorized(n_layer=1, n_embd=256, n_head=4, rank=16, initializer_range=0.05).build(500)
    product = model.transformer.wte(torch.arange(500))
    assert product.std().item() == pytest.approx(0.05, rel=0.1)
    assert torch.linalg.matrix_rank(product) == 16
    # Rows stay as long as they are, and point as far from each other.
    rows_VR = model.transformer.wte.weight
    lengths = [part.square().sum(1).mean().item() for part in (rows_VR, product)]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.1)
    others = (F.cosine_similarity(part[:50, None], part[None, :50], dim=-1) for part in (rows_VR, product))
    one, other = (cosines[~torch.eye(50, dtype=torch.bool)] for cosines in others)
    assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.9


@pytest.mark.parametrize("kind", [Gpt2, Gpt2KvShift])
def test_the_other_model_s_rows_go_to_the_same_words(kind: type[Gpt2], weak: Path) -> None:
    stored = build(Group.tiny())
    count = len(stored.tokens)
    torch.manual_seed(1)
    kind(**{**SIZES, "n_embd": 8}).build(count + 1).save_pretrained(weak)
    theirs = load_file(weak / "model.safetensors")["transformer.wte.weight"]
    architecture = Gpt2Factorized(**SIZES, model_name_or_path=str(weak))
    torch.manual_seed(3)
    model: Any = architecture.for_corpus(stored)
    wte = model.transformer.wte
    assert wte.weight.equal(theirs[1:].flip(0)) and wte.weight.requires_grad
    assert model.config.embedding_rank == 8 and model.config.vocab_size == count
    # All else is as with the same seed and drawn rows.
    torch.manual_seed(3)
    drawn = Gpt2Factorized(**SIZES, rank=8).for_corpus(stored).state_dict()
    same = {name for name, weight in model.state_dict().items() if weight.equal(drawn[name])}
    assert model.state_dict().keys() - same == {"transformer.wte.weight"}


def test_it_can_take_the_embedding_of_one_that_is_factorized_itself(weak: Path, tmp_path: Path) -> None:
    stored = build(Group.tiny())
    first: Any = Gpt2Factorized(**SIZES, model_name_or_path=str(weak)).for_corpus(stored)
    first.save_pretrained(tmp_path / "first")
    build_tokenizer(stored.tokens, " ").save_pretrained(tmp_path / "first")
    second: Any = Gpt2Factorized(**SIZES, model_name_or_path=str(tmp_path / "first")).for_corpus(stored)
    expected = first.transformer.wte.weight @ first.transformer.wte.projection.weight.T
    torch.testing.assert_close(second.transformer.wte.weight, expected)


def test_the_short_forward_computes_it_and_the_compiled_update_leaves_it_alone() -> None:
    torch.manual_seed(0)
    model = Gpt2Factorized(**SIZES, rank=5).build(24)
    assert fast_logits(model, "gpt2", rows())[1] is None


def test_analyses_read_the_product() -> None:
    model: Any = Gpt2Factorized(**SIZES, rank=5).build(24)
    rows = token_rows(model.get_input_embeddings(), 7)
    torch.testing.assert_close(rows, plain(model).transformer.wte.weight[:7], atol=1e-6, rtol=1e-5)
    assert token_rows(plain(model).transformer.wte, 7).shape == (7, 32)


def test_a_word_that_the_other_model_lacks_is_a_mistake(weak: Path) -> None:
    stored = build(Group(group="Z97"))
    with pytest.raises(ParameterError, match=r"model\.model_name_or_path: .*weak has no token for '\d+' of the corpus"):
        Gpt2Factorized(**SIZES, model_name_or_path=str(weak)).for_corpus(stored)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rank": 4, "recipe": "a.yaml"}, "rank: is that of the other model's embedding; leave one of them out"),
        ({"rank": 4, "revision": "step3"}, "model_name_or_path: is missing"),
        ({"recipe": "a.yaml", "step": "soon"}, "step: 'soon' is not grok, fit, last or a number"),
        ({"rank": 4, "tie_word_embeddings": True}, "tie_word_embeddings: True would change nothing"),
    ],
)  # fmt: skip
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Gpt2Factorized(**SIZES, **keys)


def test_a_stage_before_gives_its_embedding_at_the_step_that_is_asked_for(tmp_path: Path) -> None:
    before, ours = tmp_path / "before", tmp_path / "ours"
    write_recipe(tmp_path, f"{SHORT}output_dir: {before}\n", "before")
    model = "{name: gpt2_factorized, recipe: before.yaml, step: '4', n_layer: 1, n_embd: 32, n_head: 2, n_positions: 8}"
    text = "".join(f"model: {model}\n" if line.startswith("model:") else f"{line}\n" for line in SHORT.splitlines())
    path = write_recipe(tmp_path, f"{text}output_dir: {ours}\n", "ours")
    assert run_here(path, f"--output_dir={ours}") == 0
    theirs = weights_of(before, 4)["transformer.wte.weight"]
    first, last = weights_of(ours, 0), weights_of(ours, 8)
    table, projection = "transformer.wte.weight", "transformer.wte.projection.weight"
    assert first[table].equal(theirs) and first[projection].shape == (32, theirs.shape[1])
    assert not any(last[name].equal(first[name]) for name in (table, projection))
    chosen = yaml.safe_load((ours / "recipe.yaml").read_text())["model"]
    assert (chosen["model_name_or_path"], chosen["revision"]) == (str(before), "step4")


def weights_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / Manifest.load(run).kept[step].path / "model.safetensors")
