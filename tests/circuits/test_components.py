"""Components of a circuit that is built by hand, and each score against plain torch on random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.circuits._file_pairs import FilePairs
from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.base import Pairs
from pipeline.circuits.components import Components
from pipeline.circuits.tables import add_step
from pipeline.corpora.behaviours import Behaviours
from pipeline.corpora.composition import Composition
from pipeline.corpora.store import build
from pipeline.models.gpt2_bare import Gpt2Bare
from pipeline.plots.components import best, direct_share, inhibition_share, movers, over_steps, suppressors
from pipeline.utils.errors import MismatchError, ParameterError
from tests.circuits.small import KINDS, random_model, random_pairs
from tests.circuits.test_component_scores import both_in

NAMES, GAVE, TO = 6, 6, 7  # names are tokens 0 to 5
TOKEN, PLACE, GIVER = 0, 12, 24  # where in the stream the token, its place, and who gave are written
WIDTH, HEAD = 36, 12


def scores_of(table: Any) -> dict[str, np.ndarray]:
    rows = table.to_pylist()
    shape = [1 + max(row[name] for row in rows) for name in ("layer", "head")]
    found = {row["component"]: np.full(shape, np.nan) for row in rows}
    for row in rows:
        found[row["component"]][row["layer"], row["head"]] = np.nan if row["score"] is None else row["score"]
    return found


def sentences() -> Pairs:
    """`A B gave A to` -> B, and `A B gave B to` -> A: every two names, each of them the giver."""
    rows = [(a, b, giver) for a in range(NAMES) for b in range(NAMES) if a != b for giver in (a, b)]
    clean = np.array([[a, b, GAVE, giver, TO] for a, b, giver in rows], np.int32)
    other = np.array([[a + b - giver] for a, b, giver in rows], np.int32)
    corrupted = clean.copy()
    corrupted[:, 3] = other[:, 0]
    return Pairs(clean, corrupted, other, clean[:, 3:4])


def built() -> Any:
    """A head that looks one token back, one that says who gave, one that copies who did not, one that suppresses it."""
    model: Any = Gpt2Bare(n_layer=2, n_embd=WIDTH, n_head=3, n_inner=4, n_positions=12).build(8)
    eye, sharp = torch.eye(WIDTH), 12.0

    def head(layer: int, number: int) -> tuple[Any, ...]:
        """Views of a head's weights: queries, keys, values (D, E), and the output (E, D)."""
        attention = model.transformer.h[layer].attn
        own = slice(number * HEAD, (number + 1) * HEAD)
        parts = attention.c_attn.weight.unflatten(1, (3, WIDTH))[:, :, own].unbind(1)
        return *parts, attention.c_proj.weight[own]

    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.transformer.wte.weight.copy_(eye[TOKEN : TOKEN + 8])
        model.transformer.wpe.weight.copy_(eye[PLACE : PLACE + 12])
        model.lm_head.weight.copy_(eye[TOKEN : TOKEN + 8])
        model.lm_head.weight[:NAMES] -= 1e-4 * eye[GIVER : GIVER + NAMES]  # where all logits are equal, all are highest
        query, key, *_ = head(0, 0)
        for place in range(12):
            key[PLACE + place, place] = sharp
            query[PLACE + place, max(place - 1, 0)] = sharp
        query, key, value, out = head(0, 1)  # from the end to place 3
        query[PLACE + 4, 0] = key[PLACE + 3, 0] = sharp
        for name in range(NAMES):
            value[TOKEN + name, name] = out[name, GIVER + name] = 1
        for number, written in ((0, 1.0), (1, -0.3)):
            query, key, value, out = head(1, number)
            query[PLACE + 4, 0] = sharp  # to names in places 0 and 1, but for the giver's
            key[PLACE, 0] = key[PLACE + 1, 0] = sharp
            for name in range(NAMES):
                query[GIVER + name, 1 + name] = -sharp
                key[TOKEN + name, 1 + name] = sharp
                value[TOKEN + name, name] = 1
                out[name, TOKEN + name] = written
    return model.eval()


def test_the_parts_of_a_circuit_that_is_built_are_found() -> None:
    found = scores_of(Components(kept=1, length=5).run(built(), sentences()))
    assert found["previous token"][0, 0] > 0.99 and found["previous token"].max() == found["previous token"][0, 0]
    # Names are the whole of what the mover copies; a head that writes nothing copies nothing.
    assert found["copying"].tolist() == [[0, 0, 0], [1, 0, 0]]
    assert found["name mover"].tolist() == [[0, 0, 0], [1, 0, 0]]
    assert found["attention"][1, 0] > 0.99 and found["attention"][1, 1] > 0.99 and found["attention"][0, 1] < -0.99
    # The mover writes 1 and the suppressor -0.3 to one of the two logits: their difference goes from 0.7 to -0.7.
    expected = [[0, 0, 0], [2 / 1.4, -0.6 / 1.4, 0]]
    np.testing.assert_allclose(found["direct"], expected, atol=1e-3)
    np.testing.assert_allclose(found["S-inhibition"][0], [0, 2 / 1.4, 0], atol=1e-3)
    assert np.isnan(found["S-inhibition"][1]).all()  # no mover comes after
    assert found["copy suppression"][1, 1] > 0.8 > 0.3 > found["copy suppression"][1, 0]
    assert np.isnan(found["copy suppression"][1, 2])  # it does nothing


def test_a_head_is_no_mover_unless_it_copies_looks_and_matters() -> None:
    found = scores_of(Components(copies=0.99).run(built(), sentences()))
    assert found["name mover"][1, 0] == 1
    model, key = built(), slice(WIDTH, WIDTH + HEAD)
    with torch.no_grad():  # without a key for the giver it looks at both names
        model.transformer.h[1].attn.c_attn.weight[TOKEN : TOKEN + NAMES, key] = 0
    found = scores_of(Components().run(model, sentences()))
    assert found["copying"][1, 0] == 1 and not found["name mover"].any() and np.isnan(found["S-inhibition"]).all()
    # The suppressor alone now tells the names apart, the wrong way: there is no behaviour.
    assert np.isnan(found["direct"]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_looked_at(kind: str) -> None:
    model = random_model(kind)
    found = scores_of(Components(repeats=4).run(model, both_in(random_pairs(n=12))))
    assert len(found) == 9 and np.isfinite(found["copying"]).all()


def test_prompts_without_both_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="split: no prompt of id holds its answer and the corrupted one's"):
        Components().choose(CorpusPairs(build(Composition.tiny())))
    with pytest.raises(MismatchError, match="looks at prompts that hold their answer and that of the corrupted"):
        Components().run(random_model("gpt2"), random_pairs())
    stored = build(Behaviours.tiny())
    assert len(Components(pairs=10).choose(CorpusPairs(stored))) == 10
    with pytest.raises(ParameterError, match="no prompt of agreement holds its answer"):
        Components(split="agreement").choose(CorpusPairs(stored))
    rows = ['{"clean": [1, 2, 1], "corrupted": [1, 2, 2], "answer": [2], "corrupted_answer": [1]}']
    rows.append('{"clean": [1, 2, 1], "corrupted": [1, 2, 2], "answer": [3], "corrupted_answer": [1]}')
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    assert len(Components().choose(FilePairs(tmp_path / "pairs.jsonl", None))) == 1


def test_steps_are_drawn_as_they_are() -> None:
    """Between a model that does nothing and the one that is built the shares come up, and the mover is named."""
    tables = []
    for step, share in ((0, 0.0), (10, 1.0)):
        model = built()
        with torch.no_grad():
            for block in model.transformer.h:
                block.attn.c_proj.weight *= share
        tables.append(add_step(Components(kept=1).run(model, sentences()), step))
    table = pa.concat_tables(tables)
    assert over_steps(table, direct_share).steps.tolist() == [10]  # absent before
    assert over_steps(table, direct_share).values[0] == pytest.approx(2 / 1.4, abs=1e-3)
    assert over_steps(table, inhibition_share).values[0] == pytest.approx(2 / 1.4, abs=1e-3)
    assert over_steps(table, best("copying")).values.tolist() == [0, 1] and movers(tables[1]) == [(1, 0)]
    assert suppressors(tables[1]) == [(1, 1)] and suppressors(tables[0]) == []
    assert direct_share(tables[1], suppressors) == pytest.approx(-0.6 / 1.4, abs=1e-3)
    drawn = Components().draw(table)
    assert "name movers are L1H0, and L1H1 suppress copies." in drawn[""].caption and set(drawn) == {"", "heads"}
    assert set(Components().draw(tables[1])) == {"heads"}
