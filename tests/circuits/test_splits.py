"""Several splits in one table: what each has alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.logit_lens import LogitLens
from pipeline.circuits.tables import add_step
from pipeline.corpora.composition import Composition
from pipeline.corpora.store import build
from pipeline.models.gpt2 import Gpt2
from pipeline.utils.errors import ParameterError


def test_each_split_has_the_rows_that_it_has_alone() -> None:
    source = CorpusPairs(build(Composition.tiny()))
    torch.manual_seed(0)
    model = Gpt2.tiny().build(len(source.stored.tokens)).eval()

    def table(analysis: LogitLens) -> Any:
        return analysis.run(model, analysis.choose(source))

    both = table(LogitLens(split="ood,id", pairs=20))
    for split in ("ood", "id"):
        alone = table(LogitLens(split=split, pairs=20)).to_pandas()
        found = both.to_pandas()
        found = found[found["split"] == split].drop(columns="split").reset_index(drop=True)
        assert found.drop(columns=["rank", "mrr", "probability"]).equals(alone.iloc[:, :4])
        for column in ("rank", "mrr", "probability"):
            assert found[column].tolist() == pytest.approx(alone[column].tolist(), rel=1e-5)
    assert len(both) == 2 * len(alone) and "split" not in table(LogitLens(pairs=20)).column_names
    drawn = LogitLens().draw(add_step(both, 0))[""].figure
    assert {"bridge, ood", "bridge, id"} <= {text.get_text() for text in drawn.texts}


def test_a_split_that_is_not_there_is_named() -> None:
    with pytest.raises(ParameterError, match="no split 'odd'; allowed: train, id, ood"):
        LogitLens(split="id,odd").check_split(["train", "id", "ood"])
