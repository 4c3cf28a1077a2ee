"""Edge attribution agrees with that of transformer-lens, an independent implementation (extra `lens`)."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from pipeline.circuits.attribution import Attribution
from pipeline.circuits.hooks import Hooks
from tests.circuits.lens import lens_scores
from tests.circuits.small import random_model, random_pairs

pytest.importorskip("transformer_lens")


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "neox-sequential"])
def test_scores_agree(kind: str) -> None:
    model, pairs = random_model(kind), random_pairs(n=3)
    ours = Attribution(method="eap").scores(Hooks(model), pairs)
    theirs = lens_scores(copy.deepcopy(model), pairs)()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(ours).max() > 0.01
