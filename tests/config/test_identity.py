"""What tells a run from another: callbacks that change what is trained do, those that only watch do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config.identity import decides
from tests.tiny import ROOT, run_process

NOISE = '''
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.callbacks.base import Callback
from pipeline.config.fields import param


@dataclass
class Noise(Callback):
    """Adds noise to the weights after every step."""

    intervenes: ClassVar[bool] = True
    std: float = param(0.1, "of the noise", gt=0)


'''
SHAKE = NOISE.replace("class Noise", "class Shake").replace('    std: float = param(0.1, "of the noise", gt=0)\n', "")
SCRIPT = """
import json, sys
from pathlib import Path
from pipeline.report.differences import Differences
from pipeline.runs.opening import open_run
from pipeline.utils.errors import RecipeError
from pipeline.config.recipe import read_recipe
from pipeline.runs.folder import RunFolder
from pipeline.training.trackers import tracked_name
from tests.written_runs import GROUP, write_run

folder = Path(sys.argv[1])
base = folder / "tiny.yaml"
base.write_text(GROUP)
words = {
    "plain": [], "watched": ["--callbacks.weight_norm={}", "--callbacks.console.seconds=9"],
    "noise": ["--callbacks.noise.std=0.2"], "more": ["--callbacks.noise.std=0.3"], "shake": ["--callbacks.shake={}"],
}
found = {"names": {}, "refused": {}}
for name, given in words.items():
    write_run(folder / name, {0: [0, 0], 9: [1, 1]}, *given)
    found["names"][name] = tracked_name(read_recipe(base, given))
    for other, on in words.items():
        try:
            open_run(read_recipe(base, [f"--output_dir={folder / name}", *on]))
        except RecipeError as error:
            found["refused"][f"{name} by {other}"] = str(error).partition("(")[2].partition(")")[0]
runs = [RunFolder.read(folder / name) for name in ("noise", "more", "shake")]
found["labels"] = Differences.of(runs).labels
found["swept"] = Differences.of(runs[:2]).swept
print(json.dumps(found))
"""


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """A copy of the package with two callbacks more: adding a file is all it takes."""
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in (("noise", NOISE), ("shake", SHAKE)):
        (tmp_path / "pipeline" / "callbacks" / f"{name}.py").write_text(f"from __future__ import annotations\n{text}")
    return tmp_path


def test_a_callback_that_changes_weights_is_part_of_the_recipe(extended: Path) -> None:
    found = run_process("-c", SCRIPT, str(extended), cwd=extended, PYTHONPATH=f"{extended}:{ROOT}")
    assert found.returncode == 0, found.stderr
    facts = json.loads(found.stdout)
    assert facts["refused"] == {
        "plain by noise": "callbacks.noise.std: null there, 0.2 here",
        "plain by more": "callbacks.noise.std: null there, 0.3 here",
        "plain by shake": "callbacks.shake: null there, {} here",
        "watched by noise": "callbacks.noise.std: null there, 0.2 here",
        "watched by more": "callbacks.noise.std: null there, 0.3 here",
        "watched by shake": "callbacks.shake: null there, {} here",
        "noise by plain": "callbacks.noise.std: 0.2 there, null here",
        "noise by watched": "callbacks.noise.std: 0.2 there, null here",
        "noise by more": "callbacks.noise.std: 0.2 there, 0.3 here",
        "noise by shake": "callbacks.noise.std: 0.2 there, null here; callbacks.shake: null there, {} here",
        "more by plain": "callbacks.noise.std: 0.3 there, null here",
        "more by watched": "callbacks.noise.std: 0.3 there, null here",
        "more by noise": "callbacks.noise.std: 0.3 there, 0.2 here",
        "more by shake": "callbacks.noise.std: 0.3 there, null here; callbacks.shake: null there, {} here",
        "shake by plain": "callbacks.shake: {} there, null here",
        "shake by watched": "callbacks.shake: {} there, null here",
        "shake by noise": "callbacks.noise.std: null there, 0.2 here; callbacks.shake: {} there, null here",
        "shake by more": "callbacks.noise.std: null there, 0.3 here; callbacks.shake: {} there, null here",
    }
    assert facts["names"] == {
        "plain": "tiny-seed42",
        "watched": "tiny-seed42",
        "noise": "tiny-std=0.2-seed42",
        "more": "tiny-std=0.3-seed42",
        "shake": "tiny-shake=on-seed42",
    }
    assert facts["labels"] == ["std 0.2", "std 0.3", "shake {}"] and facts["swept"] == "callbacks.noise.std"


def test_what_only_watches_decides_nothing() -> None:
    assert decides("learning_rate") and decides("corpus.seed") and decides("model.name")
    assert not any(map(decides, ("callbacks.console.style", "circuits.fourier.steps", "paper.title", "save_steps")))
    assert decides("callbacks.gone_by_now.strength")  # of a callback that is not here any more nobody can say
