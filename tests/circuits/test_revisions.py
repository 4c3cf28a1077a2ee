"""Revisions named after steps, as Pythia's repositories have them, walked from a Hub on loopback and from a folder."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits import _outside
from pipeline.circuits._file_pairs import FilePairs
from pipeline.circuits._outside import Revisions
from pipeline.circuits.attribution import Attribution
from pipeline.circuits.logit_lens import LogitLens
from pipeline.circuits.tables import by_step, read_one, read_table
from pipeline.models.pythia import Pythia
from tests.circuits.small import VOCABULARY
from tests.hub_server import CLOSED, HubServer
from tests.hub_store import Blob, Repo
from tests.tiny import run_process

STEPS = (0, 1, 2, 8, 100)
NAME = "someone/pythia-tiny"


def weights_of(step: int) -> Any:
    """A small NeoX whose weights grow with the steps from one drawn start."""
    torch.manual_seed(0)
    model: Any = Pythia(n_layer=2, n_embd=32, n_head=4, n_positions=12, initializer_range=0.2).build(VOCABULARY)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1 + step / 100
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models of all steps, and pairs of token ids beside it."""
    folder = tmp_path_factory.mktemp("pythia")
    for step in STEPS:
        weights_of(step).save_pretrained(folder / "steps" / f"step{step}")
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(8):
        clean = rng.permutation(VOCABULARY)[:6].tolist()
        answers = {"answer": clean[:1], "corrupted_answer": clean[1:2]}
        rows.append({"clean": clean, "corrupted": [*clean[:3], clean[0], *clean[4:]], **answers})
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def remote(saved: Path, server: HubServer) -> HubServer:
    """The models as branches of one repository, whose main is the last of them."""
    repo = server.repos[NAME] = Repo("model", private=False)
    for step in STEPS:
        files = sorted((saved / "steps" / f"step{step}").iterdir())
        tree = {file.name: Blob(file.read_bytes(), size=file.stat().st_size) for file in files}
        repo.commit(f"step{step}", tree)
    repo.commit("main", tree)
    repo.commit("a-branch-of-another-name", tree)
    return server


def circuits(server: HubServer, home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    more = {**server.environment, "HF_HOME": str(home)}
    return run_process("-m", "pipeline.circuits", *map(str, words), **more)


def test_the_revisions_of_a_repository_are_walked(saved: Path, remote: HubServer, tmp_path: Path) -> None:
    pairs, out = saved / "pairs.jsonl", tmp_path / "out"
    words = ("--model", NAME, "--data", pairs, "--output", out, "--analysis", "attribution,similarity,logit_lens")
    done = circuits(remote, tmp_path / "hf", *words, "--steps", "all")
    assert done.returncode == 0, done.stderr
    source = FilePairs(pairs, None)
    for name, analysis in {"attribution": Attribution(), "logit_lens": LogitLens()}.items():
        tables = by_step(out, name)
        assert tuple(tables) == STEPS
        for step, table in tables.items():
            expected = analysis.run(weights_of(step), analysis.choose(source))
            for column in expected.column_names:
                if expected[column].type == "double":
                    np.testing.assert_allclose(
                        table[column].to_numpy(), expected[column].to_numpy(), atol=1e-6, err_msg=f"{name} {step}"
                    )
                else:
                    assert table[column].equals(expected[column])
            assert set(table["step"].to_pylist()) == {step}
    scores = [by_step(out, "attribution")[step]["score"].to_numpy() for step in STEPS]
    assert all(np.abs(one - other).max() > 1e-4 for one, other in pairwise(scores))
    assert set(read_table(out, "similarity")["step"].to_pylist()) == set(STEPS)
    pictures = {path.stem for path in out.glob("*.png")}
    assert {"attribution", "attribution_circuit", "similarity", "logit_lens"} <= pictures
    assert all(str(out / f"{name}.png") in done.stdout for name in pictures)

    # What is there stays, and no weights are asked for again; a step whose weights changed is computed anew.
    paths = {step: out / "circuits" / "attribution" / f"step{step}.parquet" for step in STEPS}
    written = {step: path.stat().st_mtime_ns for step, path in paths.items()}
    repo = remote.repos[NAME]
    repo.commit("step2", repo.tree("step8"))
    remote.requests.clear()
    assert circuits(remote, tmp_path / "other", *words, "--steps", "all").returncode == 0
    asked = [line for line in remote.requests if "safetensors" in line]
    assert asked and all(repo.branches["step2"] in line for line in asked), asked
    changed = {step for step, path in paths.items() if path.stat().st_mtime_ns != written[step]}
    assert changed == {2}
    two, eight = (read_one(paths[step])["score"].to_numpy() for step in (2, 8))
    np.testing.assert_array_equal(two, eight)


def test_one_revision_and_some_of_them(saved: Path, remote: HubServer, tmp_path: Path) -> None:
    words = ("--model", NAME, "--data", saved / "pairs.jsonl", "--analysis", "attribution")
    one = circuits(remote, tmp_path / "hf", *words, "--output", tmp_path / "one", "--revision", "step8")
    assert one.returncode == 0, one.stderr
    some = circuits(remote, tmp_path / "hf", *words, "--output", tmp_path / "some", "--steps", "0,8")
    assert some.returncode == 0, some.stderr
    tables = by_step(tmp_path / "some", "attribution")
    assert list(tables) == [0, 8]
    alone = read_one(tmp_path / "one" / "attribution.parquet")
    assert alone["step"][0].as_py() == 8 and alone["score"].equals(tables[8]["score"])


def test_what_is_no_step_of_a_model_is_a_line(saved: Path, remote: HubServer, tmp_path: Path) -> None:
    remote.repos["someone/plain"] = Repo("model", private=False)
    remote.repos["someone/plain"].commit("main", remote.repos[NAME].tree("main"))
    data = ("--data", saved / "pairs.jsonl")
    refused = {
        ("--model", NAME, "--steps", "0,7"): "step 7 was not kept; kept are 0, 1, 2, 8, 100",
        ("--model", NAME, "--steps", "0", "--revision", "step0"): "so that --revision has no place beside them",
        ("--model", "someone/plain", "--steps", "all"): "--steps: someone/plain has no revision that is named after",
        ("--model", "someone/none", "--steps", "all"): "--model: ",
        ("--model", NAME, "--steps", "some"): "'some' is not all, last, log, or numbers",
    }
    for words, message in refused.items():
        done = circuits(remote, tmp_path / "hf", *words, *data, "--output", tmp_path / "x", "--analysis", "attribution")
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
    away = {**remote.environment, "HF_ENDPOINT": CLOSED, "HF_HOME": str(tmp_path / "hf")}
    words = ("-m", "pipeline.circuits", "--model", NAME, "--steps", "all", "--analysis", "attribution")
    closed = run_process(*words, *map(str, data), **away)
    assert closed.returncode == 2 and closed.stderr.startswith("--model: ") and closed.stderr.count("\n") == 1
    two = circuits(remote, tmp_path / "hf", "--model", NAME, "--steps", "0,1", *data, "--analysis", "barrier")
    assert two.returncode == 2 and "barrier compares two models" in two.stderr


def test_steps_of_a_folder_are_walked_with_one_model_at_a_time(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = []
    opened = _outside.open_model

    def watched(*words: Any) -> Any:
        import gc
        import weakref

        gc.collect()
        alive.append(sum(one() is not None for one in models))
        model = opened(*words)
        models.append(weakref.ref(model))
        return model

    models: list[Any] = []
    monkeypatch.setattr(_outside, "open_model", watched)
    found = list(
        _outside.walk(
            Revisions(str(saved), False, "cpu"),
            {"attribution": Attribution(steps="0,2,100"), "logit_lens": LogitLens(steps="log")},
            FilePairs(saved / "pairs.jsonl", None),
            tmp_path,
        )
    )
    assert alive == [0] * 5
    assert [int(path.stem[4:]) for path in found if path.parent.name == "attribution"] == [0, 2, 100]
    assert list(by_step(tmp_path, "logit_lens")) == [0, 1, 2, 8, 100]
