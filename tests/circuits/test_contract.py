"""Every analysis in the room keeps the contract, on every architecture."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from pipeline.circuits._comparison import TwoModels
from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.base import Analysis, Explanation, Overview, Pairs
from pipeline.circuits.tables import add_step
from pipeline.config.fields import parameters_of
from pipeline.config.registry import load, names
from pipeline.corpora.composition import Composition
from pipeline.corpora.store import StoredCorpus, build
from pipeline.models.base import Architecture
from pipeline.models.gpt2 import Gpt2
from pipeline.utils.errors import ParameterError, UnsupportedError
from tests.circuits.small import VOCABULARY, random_model, random_pairs
from tests.tiny import ROOT

KINDS: dict[str, Any] = {name: load("circuits", name, "circuits") for name in names("circuits")}
ANALYSES = [name for name, kind in KINDS.items() if issubclass(kind, Analysis)]


TINY: dict[str, Any] = {name: kind.tiny() for name, kind in KINDS.items()}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[StoredCorpus]:
    """A tiny corpus of every kind."""
    kinds: list[Any] = [load("corpora", name, "corpus") for name in names("corpora")]
    return [build(kind.tiny(tmp_path_factory.mktemp("corpus"))) for kind in kinds]


def fitting(analysis: Analysis, corpora: list[StoredCorpus]) -> tuple[StoredCorpus, Pairs]:
    """The first of the corpora that an analysis can look at, and the pairs that it chooses."""
    reasons = []
    for stored in corpora:
        try:
            analysis.check_split(stored.sizes)
            return stored, analysis.choose(CorpusPairs(stored))
        except ParameterError as error:
            reasons.append(str(error))
    pytest.fail(f"no corpus fits: {reasons}")


def others(analysis: Analysis, model: Any) -> dict[str, Any]:
    """The second model of a comparison: one of the same shape with other weights."""
    if not isinstance(analysis, TwoModels):
        return {}
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(weight)
    return {"other": other}


def tiny_model(architecture: str, folder: Path = Path()) -> Any:
    """A tiny architecture, with positions for the rows of all tiny corpora."""
    made: Any = load("models", architecture, "model").tiny(folder)
    return dataclasses.replace(made, n_positions=64) if hasattr(made, "n_positions") else made


def model_for(analysis: Analysis, stored: StoredCorpus) -> Any:
    """A tiny model that an analysis can look at."""
    return tiny_model(analysis.only[0] if analysis.only else "gpt2").build(len(stored.tokens))


def count_hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("architecture", names("models"))
@pytest.mark.parametrize("name", ANALYSES)
def test_it_gives_a_table_and_leaves_the_model_alone(
    name: str, architecture: str, corpora: list[StoredCorpus], tmp_path: Path
) -> None:
    analysis, made = TINY[name], tiny_model(architecture, tmp_path)
    assert isinstance(made, Architecture)
    stored, pairs = fitting(analysis, corpora)
    torch.manual_seed(0)
    model = made.for_corpus(stored).train()  # dropout must not show
    pairs = pairs.renamed(made.token_ids(stored))
    try:
        analysis.check(model, pairs)
    except UnsupportedError as error:  # which a run says before it trains
        assert made.known_edges() is None or architecture not in (analysis.only or (architecture,))
        assert "\n" not in str(error)
        return
    if analysis.needs_edges and made.known_edges() is None:
        return  # as above; see test_runner.py
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    hooks = count_hooks(model)
    more = others(analysis, model)
    table = analysis.run(model, pairs, **more)
    assert len(table) and table.equals(analysis.run(model, pairs, **more))
    assert all(weight.equal(before[key]) for key, weight in model.state_dict().items())
    assert count_hooks(model) == hooks and all(module.training for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_it_says_what_it_is(name: str) -> None:
    kind = KINDS[name]
    assert issubclass(kind, Explanation) and kind.__doc__ and not kind.__doc__.startswith(kind.__name__)
    assert all(field.metadata.get("help") for field in parameters_of(kind))
    if issubclass(kind, Overview):
        assert kind.source in ANALYSES
    with pytest.raises(ParameterError, match="steps: 'some' is not all, last, log"):
        kind(steps="some")


@pytest.mark.parametrize("name", ANALYSES)
def test_it_is_drawn_with_one_step_and_with_many(name: str, corpora: list[StoredCorpus]) -> None:
    analysis = TINY[name]
    stored, pairs = fitting(analysis, corpora)
    model = model_for(analysis, stored)
    tables = [
        add_step(analysis.run(model, pairs, **others(analysis, model)), step) for step in (0, 1, 2, 4, 8, 16, 32, 64)
    ]
    import pyarrow as pa

    for table in (tables[0], pa.concat_tables(tables, promote_options="permissive")):
        drawings = analysis.draw(table)
        assert drawings, f"{name}.draw gives no figure for the steps {sorted(set(table['step'].to_pylist()))}"
        for drawing in drawings.values():
            assert drawing.figure.axes and drawing.alt and drawing.caption.endswith(".")
            drawing.figure.draw_without_rendering()
            assert not [text.get_text() for text in drawing.figure.findobj(Text) if "\\math" in text.get_text()]


@pytest.mark.parametrize("name", ANALYSES)
def test_what_does_not_fit_is_refused(name: str) -> None:
    analysis, model, pairs = KINDS[name](), random_model("gpt2"), random_pairs()
    refused = {
        "there is no pair of prompts": pairs.take(slice(0, 0)),
        f"the prompts hold token {VOCABULARY}, and the model has {VOCABULARY}: they are of another corpus": Pairs(
            pairs.clean + 1, pairs.corrupted + 1, pairs.answers + VOCABULARY, pairs.corrupted_answers
        ),
        "the prompts have 13 tokens, and the model 12 positions": random_pairs(length=13),
        "pair 0 does not differ": Pairs(pairs.clean, pairs.clean, pairs.answers, pairs.corrupted_answers),
    }
    for message, wrong in refused.items():
        wrong.clean.clip(max=VOCABULARY - 1, out=wrong.clean)
        wrong.corrupted.clip(max=VOCABULARY - 1, out=wrong.corrupted)
        wrong.answers.clip(max=VOCABULARY, out=wrong.answers)
        with pytest.raises(ValueError, match=message):
            analysis.run(model, wrong, **others(analysis, model))
    if analysis.same_length:
        uneven = Pairs(
            pairs.clean, pairs.corrupted, pairs.answers, pairs.corrupted_answers, lengths=np.array([7] * 5 + [6])
        )
        with pytest.raises(ValueError, match="compares positions, and the prompts have 6 to 7 tokens"):
            analysis.run(model, uneven)


@pytest.mark.parametrize("name", ANALYSES)
def test_half_precision_is_taken_or_refused(name: str, corpora: list[StoredCorpus]) -> None:
    analysis = TINY[name]
    stored, pairs = fitting(analysis, corpora)
    model = model_for(analysis, stored).to(torch.bfloat16)
    if analysis.needs_float32:
        with pytest.raises(ValueError, match=r"needs weights in float32, not torch\.bfloat16; call model\.float"):
            analysis.run(model, pairs)
    else:
        coarse = analysis.run(model, pairs, **others(analysis, model))
        assert len(coarse) == len(analysis.run(model.float(), pairs, **others(analysis, model)))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ANALYSES)
def test_a_gpu_gives_the_same(name: str, corpora: list[StoredCorpus]) -> None:
    analysis = TINY[name]
    stored, pairs = fitting(analysis, corpora)
    model = model_for(analysis, stored)
    here, there = (analysis.run(model.to(device), pairs, **others(analysis, model)) for device in ("cpu", "cuda"))
    for column in here.column_names:
        if here[column].type == "double":
            np.testing.assert_allclose(there[column], here[column], atol=1e-3)


def test_naming_an_analysis_needs_no_torch() -> None:
    code = "import sys; from pipeline.config.registry import load, names\n"
    code += "[load('circuits', n, '') for n in names('circuits')]"
    code += "; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    code += " and 'matplotlib' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_logit_lens_ends_with_the_model_s_own_output() -> None:
    stored = build(Composition.tiny())
    torch.manual_seed(0)
    model = Gpt2.tiny().build(len(stored.tokens)).eval()
    analysis = KINDS["logit_lens"](pairs=8)
    pairs = analysis.choose(CorpusPairs(stored))
    table = analysis.run(model, pairs)
    rows = {(row["layer"], row["position"], row["target"]): row for row in table.to_pylist()}
    assert {key[2] for key in rows} == {"answer", "bridge", "the token itself"} and {key[0] for key in rows} == {
        0,
        1,
        2,
    }
    assert rows[0, 1, "answer"]["place"] == "r1"
    logits = model(torch.from_numpy(pairs.clean).long()).logits.double()
    targets = {"answer": pairs.answers[:, 0], "bridge": pairs.notes["bridge"]}
    for position in range(3):
        for name, target in {**targets, "the token itself": pairs.clean[:, position]}.items():
            values = logits[np.arange(len(pairs)), position, target]
            # By sorting, as the papers' code does.
            order = logits[:, position].sort(descending=True, stable=True).indices
            ranks = (order == torch.from_numpy(target)[:, None]).int().argmax(-1).double()
            row = rows[2, position, name]
            assert row["rank"] == pytest.approx(ranks.mean().item(), rel=1e-5)
            assert row["mrr"] == pytest.approx((1 / (ranks + 1)).mean().item(), rel=1e-5)
            probability = (values - logits[:, position].logsumexp(-1)).exp().mean().item()
            assert row["probability"] == pytest.approx(probability, rel=1e-4)
    # At layer 0 nothing has been read but the token itself.
    embedded = model.transformer.wte.weight[pairs.clean[0, 0]] + model.transformer.wpe.weight[0]
    lens = model.lm_head(model.transformer.ln_f(embedded)).softmax(-1)
    row = analysis.run(model, pairs.take(slice(0, 1))).to_pylist()[0]
    assert (row["layer"], row["position"], row["target"]) == (0, 0, "answer")
    assert row["probability"] == pytest.approx(lens[pairs.answers[0, 0]].item(), rel=1e-5)


def test_a_large_vocabulary_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = Gpt2(n_layer=1, n_embd=8, n_head=2, n_positions=8).build(VOCABULARY), random_pairs(n=9)
    whole = KINDS["logit_lens"]().run(model, pairs)
    monkeypatch.setattr("pipeline.circuits._batch.TOKENS", 5)
    monkeypatch.setattr("pipeline.circuits._batch.ROWS", 4)
    parts = KINDS["logit_lens"]().run(model, pairs)
    np.testing.assert_allclose(whole["mrr"], parts["mrr"], rtol=1e-5)
