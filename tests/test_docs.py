"""The pages of docs/: their commands are run as they stand there, on small runs; their numbers are those recorded."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.report.glossary import as_page
from pipeline.runs.folder import RunFolder
from pipeline.sweep.grid import grid
from tests.hub_server import TOKEN, HubServer
from tests.test_readme import blocks
from tests.tiny import ROOT, run_process

sys.path.insert(0, str(ROOT / "docs"))
import api_reference

DOCS = ROOT / "docs"
# What makes a run of a page short; a fork goes on from step 64.
BRIEF = ["--max_steps", "66", "--circuits", "{}", "--save_strategy", "no", "--callbacks.console.style", "off"]
QUICK = ["--max_steps", "2", *BRIEF[2:]]


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def commands(name: str) -> list[list[str]]:
    lines = [line for block in blocks("bash", page(name)) for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def run_python(words: list[str]) -> None:
    """A command of the package, in this process."""
    assert words[:2] == ["python", "-m"], words
    module = words[2] if words[2] == "pipeline.run" else f"{words[2]}.__main__"
    assert importlib.import_module(module).main(words[3:]) == 0, words


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a user has the recipes, and makes runs."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("recipes", "accelerate_configs", "pipeline"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def quickstart(home: Path) -> Path:
    run_python([*commands("first-hour")[1], *BRIEF])
    return home / "runs" / "quickstart"


def test_the_first_hour_can_be_lived(
    home: Path, quickstart: Path, server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = 0
    for words in commands("first-hour")[2:]:
        if words[2] == "pipeline.hub":
            where = {"HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN, **server.environment}
            done = run_process(*words[1:], cwd=home, **where)
            assert done.returncode == 0, done.stderr
            ran += 1
            continue
        more = {"pipeline.run": BRIEF, "pipeline.sweep": [*QUICK[:-2], "--jobs", "2"]}.get(words[2], [])
        run_python([*words, *(QUICK if "--check" in words and words[2] == "pipeline.run" else more)])
        ran += 1
    assert ran == 9
    said = capsys.readouterr().out
    assert "12 90 =   " in said and "right is 5" in said and "in all: " in said
    fork = RunFolder.read(home / "runs" / "less-decay")
    assert fork.fork == ("quickstart", 64) and fork.last_step == 66
    results = pd.read_csv(home / "runs" / "grid" / "results.csv")
    assert len(results) == 4 and set(results["weight_decay"]) == {0.3, 1}
    assert (quickstart / "figures" / "curve_paper.pdf").read_bytes().startswith(b"%PDF")
    first, second = (run_process("-c", code, cwd=home) for code in blocks("python", page("first-hour")))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "0.28" in first.stdout and (home / "mine.pdf").read_bytes().startswith(b"%PDF")
    assert {"main", "step0", "step64"} <= server.repos["USER/quickstart"].branches.keys()
    assert server.repos["USER/quickstart-demo"].kind == "space"


def test_circuits_in_ten_minutes(home: Path, quickstart: Path) -> None:
    (pairs,) = blocks("csv", page("circuits"))
    (home / "pairs.csv").write_text(pairs)
    for words in commands("circuits"):
        run_python(words)
    tables = {path.parent.name for path in (quickstart / "circuits").glob("*/*.parquet")}
    assert tables == {"logit_lens", "fourier", "attribution"}
    (code,) = blocks("python", page("circuits"))
    assert "66" in run_process("-c", code, cwd=home).stdout
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|.*\|$", page("circuits"), re.MULTILINE))))
    known = {path.stem for path in (ROOT / "pipeline" / "circuits").glob("[a-z]*.py")}
    assert named <= known
    assert named >= {"logit_lens", "causal_tracing", "attribution", "fourier", "eigen", "barrier", "loops"}


def test_a_run_can_be_published(home: Path, quickstart: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands("publishing")
    push, space, live = found[0], *(words for words in found if words[3] == "space" and "--output" in words)
    assert push[-1] == "--dry-run"  # the tests of the Hub send, read back and pull
    for words in (push, space, live):
        run_python(words)
    said = capsys.readouterr().out
    assert "nothing was sent" in said and "http.server --directory space" in said
    assert (home / "space" / "index.html").is_file() and (home / "live" / "app.py").is_file()
    assert {words[3] for words in found} == {"push", "verify", "pull", "space"}


def test_a_report_has_what_its_page_tells_of(quickstart: Path) -> None:
    report = (quickstart / "report.html").read_text()
    told = re.findall(r"\*\*([A-Z][^*]+)\*\*", page("reading-a-report"))
    assert {"Final numbers", "Loss and norms", "Kept weights", "To repeat it", "Environment"} <= set(told)
    for heading in told:
        if not heading.startswith(("The ", "What ")):
            assert f"<h2>{heading}</h2>" in report, heading


def test_the_first_recipe_trains(home: Path) -> None:
    (recipe,) = blocks("yaml", page("first-recipe"))
    (home / "mine.yaml").write_text(recipe)
    assert yaml.safe_load(recipe)["corpus"]["name"] == "group"
    for words in commands("first-recipe"):
        run_python([*words, *(QUICK if words[2] == "pipeline.run" else [])])
    assert RunFolder.read(home / "runs" / "mine").last_step == 2
    assert (home / "runs" / "both" / "report.html").is_file()


def test_an_own_corpus_is_looked_at(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands("own-corpus"):
        run_python(words)
    assert {path.name for path in (home / "data" / "mine").iterdir()} >= {"train.json", "valid.json", "test.json"}
    assert yaml.safe_load(blocks("yaml", page("own-corpus"))[0])["corpus"]["path"] == "data/mine"


def test_the_cluster_is_rehearsed(home: Path) -> None:
    for words in commands("cluster"):
        if words[0] == "sbatch":
            assert words[words.index("recipes/launch.slurm") + 1].startswith("recipes/")
        elif "--dry-run" in words:
            where = {**os.environ, "PYTHON": sys.executable}
            said = subprocess.run(words, cwd=home, env=where, capture_output=True, text=True, check=True).stdout
            assert said.startswith("2 nodes x 4 processes") and "warning" not in said and "hint: --" not in said


def test_numbers_on_grokking_are_the_recorded_ones() -> None:
    text = page("what-is-grokking")
    for claim in ("power2022_delay", "wang2024_composition", "wang2024_comparison"):
        assert f"../recipes/README.md#{claim}" in text or f"../recipes/results/{claim}.png" in text

    def recorded(claim: str) -> dict[str, dict[str, float]]:
        found = json.loads((ROOT / "recipes" / "results" / f"{claim}.json").read_text())
        return {target["name"]: target for target in found["targets"]}

    delay = recorded("power2022_delay")
    gap, slower = delay["grok_gap @ 0.28"], delay["slower with 0.28 than with 0.5"]
    assert f"{gap['median']:g} times as late ({gap['low']:g} to {gap['high']:g} over seeds)" in text
    assert f"{slower['median']:.2f} times fewer" in text and f"only {slower['low']:.2f} times" in text
    two_hop = recorded("wang2024_composition")
    assert f"`id` reaches {two_hop['id @ ratio 9']['median']:.2f} in the median" in text
    assert f"{two_hop['grok_gap @ ratio 9']['median']:.2f} times as late" in text
    assert f"`ood` stays at {two_hop['ood @ ratio 9']['median']:.2f}" in text
    assert two_hop["ood_atomic @ ratio 9"]["median"] == 1
    comparison = recorded("wang2024_comparison")
    assert f"right on {comparison['ood @ comparison']['median']:.3f} of pairs" in text
    assert f"`ood` is at {comparison['ood at fit @ comparison']['high']:.2f} of pairs" in text


def test_what_did_not_work_stands_with_commands_and_recorded_numbers() -> None:
    text = page("what-did-not-work")
    shown = re.findall(r"`(python -m pipeline\.sweep [^`]+)`", text)
    assert len(shown) == 2 and all(len(grid(*_recipe_and_words(line), None)) == 3 for line in shown)
    recipes = (ROOT / "recipes" / "README.md").read_text()
    assert "groks at 1,925 to 2,625" in recipes and "it groks at 1,925 to 2,625" in text
    for claim in ("cliptogrok2026", "lee2024_grokfast"):
        facts = json.loads((ROOT / "recipes" / "results" / f"{claim}.json").read_text())
        assert f"{facts['targets'][0]['median']:.2f} times its speed in the best cell" in text


def _recipe_and_words(line: str) -> tuple[str, list[str]]:
    words = shlex.split(line)
    return str(ROOT / words[3]), words[4:]


def test_the_api_reference_is_that_of_the_docstrings() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "api").iterdir()}
    assert there == api_reference.pages(), "run make reference"
    text = there["api.md"]
    assert "### Run\n" in text and "#### Run.metrics" in text and "- trust_remote_code: Run the code" in text
    assert "| `train_fraction: float` | `0.3` | " in there["corpora.md"]
    assert not re.search(r"<(?!!--)", re.sub(r"```.*?```|`[^`]*`", "", "".join(there.values()), flags=re.DOTALL))


def test_the_glossary_is_that_of_reports() -> None:
    assert page("glossary") == as_page()


@pytest.mark.parametrize("name", sorted(path.stem for path in DOCS.glob("*.md")))
def test_links_lead_somewhere(name: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page(name)):
        if target.startswith("http"):
            continue
        file = (DOCS / target) if target else DOCS / f"{name}.md"
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, anchor


def test_every_page_is_named_where_readers_begin() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in DOCS.glob("*.md"):
        linked = f"docs/{path.name}" in readme or f"]({path.name})" in page("first-hour")
        assert linked or f"docs/{path.name}" in (ROOT / "CONTRIBUTING.md").read_text(), path.name
