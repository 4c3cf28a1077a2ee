"""Every analysis in the room keeps the contract, on every architecture."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.circuits.base import Analysis, Pairs
from pipeline.corpora.composition import Composition
from pipeline.explain import make_pairs
from pipeline.parameters import ParameterError, parameters_of
from pipeline.rooms import load, names
from pipeline.store import StoredCorpus, build
from tests.models.test_models import small
from tests.tiny import ROOT


@pytest.fixture(scope="module")
def stored() -> StoredCorpus:
    return build(Composition(num_entities=30, num_relations=6, out_degree=4, ratio=3, ood_fraction=0.2))


def count_hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("architecture", [name for name in names("models") if name != "continued"])
@pytest.mark.parametrize("name", names("circuits"))
def test_it_gives_a_table_and_leaves_the_model_alone(name: str, architecture: str, stored: StoredCorpus) -> None:
    analysis = load("circuits", name, "circuits")(pairs=16)
    assert isinstance(analysis, Analysis) and type(analysis).__doc__
    assert all(field.metadata.get("help") for field in parameters_of(type(analysis)))
    torch.manual_seed(0)
    model = small(architecture).build(len(stored.tokens)).eval()
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    pairs = make_pairs(stored, analysis)
    model(torch.zeros(1, 2, dtype=torch.long), output_hidden_states=True)  # lets transformers put its own hooks
    hooks = count_hooks(model)
    rows = analysis.run(model, pairs)
    assert rows and all(row.keys() == rows[0].keys() for row in rows)
    assert all(isinstance(value, (int, float, str)) for row in rows for value in row.values())
    assert rows == analysis.run(model, pairs)
    assert all(weight.equal(before[key]) for key, weight in model.state_dict().items())
    assert count_hooks(model) == hooks


def test_naming_an_analysis_needs_no_torch() -> None:
    code = "import sys; from pipeline.rooms import load, names; [load('circuits', n, '') for n in names('circuits')]"
    code += "; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_pairs_differ_in_one_token_and_in_the_answer(stored: StoredCorpus) -> None:
    analysis = load("circuits", "logit_lens", "circuits")(split="train_inferred", pairs=50)
    pairs = make_pairs(stored, analysis)
    assert 0 < len(pairs) <= 50
    assert ((pairs.clean != pairs.corrupted).sum(axis=1) == 1).all()
    assert (pairs.answers != pairs.corrupted_answers).any(axis=1).all()
    again = make_pairs(stored, analysis)
    assert (again.clean == pairs.clean).all() and (again.corrupted == pairs.corrupted).all()
    other = make_pairs(stored, dataclasses.replace(analysis, seed=1))
    assert (other.clean != pairs.clean).any()


def test_the_logit_lens_ends_with_the_model_s_own_output(stored: StoredCorpus) -> None:
    torch.manual_seed(0)
    model = small("gpt2").build(len(stored.tokens)).eval()
    analysis = load("circuits", "logit_lens", "circuits")(pairs=8)
    pairs = make_pairs(stored, analysis)
    rows = {(row["layer"], row["position"], row["target"]): row for row in analysis.run(model, pairs)}
    assert {key[2] for key in rows} == {"answer", "bridge"} and {key[0] for key in rows} == {0, 1, 2}
    logits = model(torch.from_numpy(pairs.clean).long()).logits[:, -1].double()
    for name, target in {"answer": pairs.answers[:, 0], "bridge": pairs.notes["bridge"]}.items():
        values = logits[np.arange(len(pairs)), target]
        ranks = (logits > values[:, None]).sum(-1)
        row = rows[2, 2, name]
        assert row["mrr"] == pytest.approx((1 / (ranks + 1)).mean().item(), rel=1e-5)
        assert row["probability"] == pytest.approx((values - logits.logsumexp(-1)).exp().mean().item(), rel=1e-4)
    # At layer 0 nothing has been read but the token itself.
    embedded = model.transformer.wte.weight[pairs.clean[0, 0]] + model.transformer.wpe.weight[0]
    lens = model.lm_head(model.transformer.ln_f(embedded)).softmax(-1)
    one = Pairs(pairs.clean[:1], pairs.corrupted[:1], pairs.answers[:1], pairs.corrupted_answers[:1], {})
    row = next(row for row in analysis.run(model, one) if row["layer"] == row["position"] == 0)
    assert row["probability"] == pytest.approx(lens[pairs.answers[0, 0]].item(), rel=1e-5)


def test_impossible_requests_are_refused(stored: StoredCorpus) -> None:
    kind = load("circuits", "logit_lens", "circuits")
    with pytest.raises(ParameterError, match="steps: 'some' is not all, last, log"):
        kind(steps="some")
    with pytest.raises(ParameterError, match="split: there is no split 'test'"):
        make_pairs(stored, kind(split="test"))
