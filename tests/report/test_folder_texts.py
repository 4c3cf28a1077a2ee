"""Text that stands in a folder is shown and never obeyed: in pages, in cards, and at the terminal."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt

from pipeline.corpora.__main__ import main as corpora
from pipeline.corpora.export import write_parquet
from pipeline.corpora.published import Published
from pipeline.corpora.store import build
from pipeline.evaluate.output import as_bytes
from pipeline.hub import cards
from pipeline.report import __main__ as report
from pipeline.report.sheets import Sheet
from pipeline.runs import __main__ as upkeep
from pipeline.runs.__main__ import main as checkpoints
from pipeline.runs.folder import RunFolder
from pipeline.runs.manifest import Manifest
from tests.config.test_remote_code import sealed
from tests.hub_server import HubServer, in_this_process
from tests.report.test_page import Reader, scripts_are_ours

EVIL = "<script>alert(1)</script>`<img src=x onerror=alert(1)>`|[x](javascript:alert(1)) \x1b[31m\x07\nevil: ok"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture
def run(kept_run: Path, tmp_path: Path) -> Path:
    """A run with such text wherever its folder may hold some."""
    folder = Path(shutil.copytree(kept_run, tmp_path / "run"))
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["paper"] = {"title": EVIL, "arxiv": EVIL, "numbers": {"id": EVIL, EVIL[:40]: EVIL}}
    recipe |= {"run_name": EVIL, "stop_patience": EVIL, "stop_when": "grokked"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    start = json.loads((folder / "environment.json").read_text())[-1]
    start |= {"device": EVIL, "platform": EVIL, "python": EVIL, "revision": EVIL, "command": [EVIL]}
    start["packages"] = {EVIL: EVIL}
    (folder / "environment.json").write_text(json.dumps([start]))
    manifest = Manifest.load(folder)
    for entry in manifest.kept.values():
        entry.metrics[f"eval_{EVIL}_exact_match"] = 0.5
    manifest.save(folder)
    sealed(folder)
    return folder


REPORT = re.compile(r"[\w./%-]+/report\.html", re.ASCII)  # of a run beside a comparison


def check_page(text: str) -> None:
    scripts_are_ours(text)
    reader = Reader(text)
    for tag, attributes in reader.tags:
        assert tag not in ("img", "iframe"), (tag, attributes)
        assert tag != "a" or REPORT.fullmatch(str(attributes["href"])), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), attributes
    assert not CONTROLS.search(text)


def check_markdown(text: str) -> None:
    rendered = MarkdownIt("commonmark").enable("table").render(re.sub("</?(?:details|summary)>", "", text))
    for tag, attributes in Reader(rendered).tags:
        assert tag not in ("script", "iframe") and not any(name.startswith("on") for name in attributes)
        assert tag != "a" or REPORT.fullmatch(str(attributes["href"])), (tag, attributes)
        assert tag != "img" or str(attributes["src"]).startswith("figures/")


def test_a_report_shows_it(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(run)]) == 0
    check_page((run / "report.html").read_text())
    markdown = (run / "report.md").read_text()
    check_markdown(markdown)
    assert not CONTROLS.search(markdown)
    assert "alert(1)" in Reader((run / "report.html").read_text()).text  # it is there, as text
    other = Path(shutil.copytree(run, run.parent / "other"))
    recipe = yaml.safe_load((other / "recipe.yaml").read_text())
    recipe |= {"stop_patience": f"{EVIL} too", "learning_rate": EVIL}  # labels in drawings
    (other / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    assert report.main([str(run), str(other), "--output", str(run.parent / "both")]) == 0
    check_page((run.parent / "both" / "report.html").read_text())
    assert not CONTROLS.search(capfd.readouterr().out)


@pytest.mark.parametrize("name", [EVIL, "../../evil", "a b", "", "x" * 1000, 'a"b'])
def test_a_split_or_a_corpus_with_another_name_is_a_line(
    name: str, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = run / "corpus" / "corpus.json"
    facts: dict[str, Any] = json.loads(index.read_text())
    for changed in ({"name": name}, {"sizes": {**facts["sizes"], name: 3}}, {"held_out": ["id", name]}):
        index.write_text(json.dumps({**facts, **changed}))
        assert report.main([str(run)]) == 2
        told = capfd.readouterr().err
        assert told == f"{index}: is damaged\n"
    assert not list(run.parent.glob("**/evil*"))


def test_every_command_keeps_it_from_the_terminal(
    run: Path, server: HubServer, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (run / "lock.json").write_text(json.dumps({"host": EVIL, "pid": EVIL, "boot": upkeep.RunLock(run)._facts["boot"]}))
    for words in (("list",), ("show", "8"), ("verify",), ("prune", "--keep", "all")):
        command, *rest = words
        assert checkpoints([command, str(run), *rest]) in (0, 1)
    with in_this_process(server) as hub:
        pushed = hub("push", run, "--repo", "user/x", "--steps", "0,8")
        assert pushed.status == 0, pushed
        server.repos["user/x"].branches[EVIL] = server.repos["user/x"].branches["main"]
        verified = hub("verify", run, "--repo", "user/x", "--steps", "0,8", "--quick")
        pulled = hub("pull", "user/x", "--output", tmp_path / "pulled")
    said = capfd.readouterr()
    for text in (said.out, said.err, *pushed[1:], *verified[1:], *pulled[1:]):
        assert not CONTROLS.search(text), text
        assert "\nevil: ok" not in text, text  # no line of its own either
    for revision in ("main", "step8"):
        card = server.content("user/x", revision, "README.md").decode()
        assert not CONTROLS.search(card)
        _, front, text = card.split("---\n", 2)
        assert yaml.safe_load(front)["library_name"] == "transformers" and "evil" not in yaml.safe_load(front)
        check_markdown(text)


def test_tokens_of_a_corpus_are_shown_in_its_card_and_at_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    tokens = ["<a|b>", "<`x`>", "<\x1b[31m>", "<=1+1>"]
    item = {"input_text": "".join(tokens[:3]), "target_text": "".join(tokens), "type": "train_inferred"}
    for name, content in {"train": [item], "valid": [], "test": [item], "vocab": tokens}.items():
        (data / f"{name}.json").write_text(json.dumps(content))
    corpus = build(Published(path=str(data)))
    write_parquet(corpus, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"][0]["data_files"][0] == {"split": "train", "path": "train.parquet"}
    reader = Reader(MarkdownIt("commonmark").enable("table").render(card.split("---\n")[2]))
    assert reader.rows[1][3] == "<a|b><`x`><\ufffd[31m>" and not CONTROLS.search(card)
    assert pq.read_table(tmp_path / "out" / "train.parquet")["prompt"][0].as_py() == "".join(tokens[:3])
    assert corpora(["published", "--path", str(data)]) == 0
    assert not CONTROLS.search(capsys.readouterr().out)


def test_the_front_matter_of_a_card_is_yaml_whatever_a_folder_says(run: Path) -> None:
    results = RunFolder.read(run)
    results.resolved["model"]["name"] = "x\n---\n# Evil\nlicense: mit"
    card = cards.step_card(results, 8, "user/x", "user/data")
    front = yaml.safe_load(card[4 : card.index("\n---\n\n", 4)])
    assert front["tags"][3] == "x\n---\n# Evil\nlicense: mit" and "license" not in front


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ('=HYPERLINK("http://x","y")', '\'=HYPERLINK("http://x","y")'),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("=", "="),  # a token of prompts
        ("->", "->"),
        ("-1.5e-3", "-1.5e-3"),
        ("+7", "+7"),
        ("a=b", "a=b"),
    ],
)
def test_no_cell_of_a_table_is_a_formula(text: str, cell: str) -> None:
    """In both writers: figures' rows and results of runs, and evaluations."""
    (row,) = csv.reader(Sheet((text,), [(text,)]).as_csv().decode().splitlines()[1:])
    (named, *_) = csv.reader(Sheet((text,), []).as_csv().decode().splitlines())
    assert row == named == [cell]
    rows = csv.DictReader(as_bytes([{"value": text}], ["value"], "csv").decode().splitlines())
    assert [found["value"] for found in rows] == [cell]
