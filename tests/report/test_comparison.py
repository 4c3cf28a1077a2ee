"""Runs side by side: named by what differs, grouped over seeds, counted honestly."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline import Run
from pipeline.plots.seeds import colours
from pipeline.report.__main__ import main
from pipeline.report.differences import Differences
from pipeline.runs.folder import RunFolder
from tests.report.test_page import Reader, needs_nothing_but_itself, rendered, seen
from tests.written_runs import COMPOSITION, write_run

STEPS = [0, 50, 100, 200, 400, 1000, 2000]


def a_run(folder: Path, *overrides: str, fit: int = 100, grok: int | None = 1000, last: int = 2000) -> Path:
    matches = {step: [float(at is not None and step >= at) or 0.25 for at in (fit, grok)] for step in STEPS}
    found = {step: match for step, match in matches.items() if step <= last}
    return write_run(folder, found, *overrides, final=found[last] if last == 2000 else None)


def two_hop(folder: Path, *overrides: str) -> Path:
    return write_run(folder, {0: [0.0] * 6, 2000: [1, 0.5, 0, 1, 1, 1]}, *overrides, recipe=COMPOSITION, final=[1] * 6)


def labels(*paths: Path) -> list[str]:
    return Differences.of([RunFolder.read(path) for path in paths]).labels


def compare(folder: Path, *paths: Path) -> Reader:
    """The comparison as a reader of the Markdown sees it; that of the HTML has the same words in its tables."""
    assert main([*map(str, paths), "--output", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    needs_nothing_but_itself(text)
    markdown = rendered((folder / "report.md").read_text())
    assert [[seen(cell) for cell in row] for row in Reader(text).rows] == [
        [seen(cell) for cell in row] for row in markdown.rows
    ]
    return markdown


def results(page: Reader) -> dict[str, list[str]]:
    """The rows of the first table by their first cell."""
    return {row[0]: row[1:] for row in page.rows if len(row) == len(page.rows[0])}


def test_runs_are_named_by_what_differs(tmp_path: Path) -> None:
    plain = a_run(tmp_path / "a")
    decayed = a_run(tmp_path / "b", "--weight_decay=0.3")
    seeded = a_run(tmp_path / "c", "--weight_decay=0.3", "--seed=7")
    assert labels(plain, decayed) == ["weight_decay 1", "weight_decay 0.3"]
    assert labels(plain, decayed, seeded) == [
        *("weight_decay 1, seed 42", "weight_decay 0.3, seed 42", "weight_decay 0.3, seed 7"),
    ]
    other = a_run(tmp_path / "d", "--corpus.seed=1")
    assert labels(plain, other) == ["seed 0", "seed 1"]
    assert labels(plain, other, seeded) == [
        "corpus.seed 0, weight_decay 1, seed 42",
        "corpus.seed 1, weight_decay 1, seed 42",
        "corpus.seed 0, weight_decay 0.3, seed 7",
    ]


def test_what_is_only_watched_does_not_name_a_run_unless_nothing_else_does(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "a"), a_run(tmp_path / "b", "--eval_steps=10", "--max_steps=3000", "--corpus.group=Z11")]
    assert labels(*runs) == ["group Z97", "group Z11"]
    assert labels(runs[0], a_run(tmp_path / "c", "--eval_steps=10")) == ["eval_steps 50", "eval_steps 10"]


def test_keys_that_an_older_recipe_lacks_do_not_name_a_run(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "old", "--weight_decay=3"), a_run(tmp_path / "new")]
    recipe = runs[0] / "recipe.yaml"
    recipe.write_text("".join(line for line in recipe.read_text().splitlines(True) if not line.startswith("bf16:")))
    assert labels(*runs) == ["weight_decay 3", "weight_decay 1"]


def test_other_corpora_are_named_and_their_own_keys_where_they_tell_runs_apart(tmp_path: Path) -> None:
    group = a_run(tmp_path / "group", "--weight_decay=0.1", "--model.n_layer=2", "--model.n_embd=64")
    small, large = two_hop(tmp_path / "small"), two_hop(tmp_path / "large", "--corpus.ratio=9")
    assert labels(group, small) == ["group", "composition"]
    assert labels(group, small, large) == ["group", "composition, ratio 5", "composition, ratio 9"]


def test_the_same_recipe_twice_is_named_by_folder(tmp_path: Path) -> None:
    assert labels(a_run(tmp_path / "a"), a_run(tmp_path / "b")) == ["a", "b"]
    one, other = a_run(tmp_path / "x" / "run"), a_run(tmp_path / "y" / "run")
    assert labels(one, other) == [str(one), str(other)]
    assert Differences.of([RunFolder.read(one), RunFolder.read(other)]).groups == [[0], [1]]


def test_seeds_are_grouped_in_the_order_given(tmp_path: Path) -> None:
    paths = [a_run(tmp_path / f"{w}{s}", f"--weight_decay={w}", f"--seed={s}") for s in (0, 1) for w in (1, 0.3)]
    differences = Differences.of([RunFolder.read(path) for path in paths])
    assert differences.groups == [[0, 2], [1, 3]]
    assert differences.group_labels == ["weight_decay 1", "weight_decay 0.3"]
    assert differences.swept == "weight_decay"
    seeds = Differences.of([RunFolder.read(paths[0]), RunFolder.read(paths[2])])
    assert (seeds.group_labels, seeds.swept) == (["2 seeds"], None)


@pytest.mark.parametrize("overrides", [["--corpus.operation=-"], ["--tf32=true"], ["--lr_scheduler_type=constant"]])
def test_only_numbers_are_swept(tmp_path: Path, overrides: list[str]) -> None:
    runs = [RunFolder.read(a_run(tmp_path / "a")), RunFolder.read(a_run(tmp_path / "b", *overrides))]
    assert Differences.of(runs).swept is None


def test_a_comparison_has_every_run_in_order_with_its_numbers(tmp_path: Path) -> None:
    paths = [
        a_run(tmp_path / "c", "--weight_decay=3", grok=400),
        a_run(tmp_path / "a", "--weight_decay=0.1", grok=None),
        a_run(tmp_path / "b", "--weight_decay=1", last=400),
    ]
    page = compare(tmp_path / "out", *paths)
    rows = results(page)
    assert list(rows)[:4] == ["run", "weight_decay 3", "weight_decay 0.1", "weight_decay 1"]
    assert rows["run"] == [
        "steps",
        "fit step",
        "gen step",
        "grok step",
        "gap",
        "stays",
        "train",
        "id",
        "time",
        "folder",
    ]
    assert rows["weight_decay 3"][:-1] == ["2,000", "100", "400", "400", "4.0", "1.000", "1.000", "1.000", "20 s"]
    assert rows["weight_decay 0.1"][:-1] == ["2,000", "100", "–", "–", "–", "–", "1.000", "0.250", "20 s"]
    assert rows["weight_decay 1"][:8] == ["400 of 2,000, unfinished", "100", *"––––", "1.000", "0.250"]
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    names = ("match_id", "match_train", "sweep")
    assert figures == {f"{name}.{ending}" for name in names for ending in ("png", "svg", "csv")}
    drawing = (tmp_path / "out" / "figures" / "match_id.svg").read_text()
    assert all(f">{label}</text>" in drawing for label in list(rows)[1:4])
    assert [row for row in page.rows if row[0] == "weight_decay 3"][-1] == ["weight_decay 3", "3"]  # what differs


def test_colours_follow_the_value_and_not_the_order(tmp_path: Path) -> None:
    decays = (3, 0.1, 1)
    paths = [a_run(tmp_path / str(decay), f"--weight_decay={decay}") for decay in decays]
    compare(tmp_path / "out", *paths)
    drawing = (tmp_path / "out" / "figures" / "match_id.svg").read_text()
    lowest, middle, highest = colours(3, ordered=True)
    places = [drawing.rindex(f"stroke: {colour}") for colour in (highest, lowest, middle)]
    assert places == sorted(places)  # the curves, in the order given


def test_seeds_are_counted_and_not_averaged_over_what_did_not_happen(tmp_path: Path) -> None:
    groks = {0: 400, 1: 1000, 2: None}
    paths = [a_run(tmp_path / str(seed), f"--seed={seed}", grok=grok) for seed, grok in groks.items()]
    page = compare(tmp_path / "out", *paths)
    assert [row for row in page.rows if row[0] == "3 seeds"] == [
        [
            "3 seeds",
            "3",
            "100",
            *["700 (400 to 1,000), 2 of 3"] * 2,
            "7.0 (4.0 to 10), 2 of 3",
            "0.750 (0.250 to 1.000)",
        ]
    ]


def test_runs_of_other_corpora_share_a_page(tmp_path: Path) -> None:
    page = compare(tmp_path / "out", a_run(tmp_path / "a"), two_hop(tmp_path / "b"))
    rows = results(page)
    assert rows["run"][6:10] == ["train", "id", "ood", "ood_atomic"]
    assert rows["group"][7:10] == ["1.000", "–", "–"] and rows["composition"][7:10] == ["1.000"] * 3
    assert (tmp_path / "out" / "figures" / "match_ood.png").exists()
    differing = [row for row in page.rows if row[0] == "corpus.ratio"]
    assert differing == [["corpus.ratio", "–", "5"]]  # so many keys stand below each other


def test_a_run_without_evaluations_is_listed(tmp_path: Path) -> None:
    rows = results(compare(tmp_path / "out", a_run(tmp_path / "a"), write_run(tmp_path / "b", {}, "--seed=1")))
    assert rows["seed 1"][:7] == ["0 of 2,000, unfinished", *"––––––"]


def test_other_devices_are_among_the_differences(tmp_path: Path) -> None:
    paths = [a_run(tmp_path / "a"), a_run(tmp_path / "b")]
    environment = paths[1] / "environment.json"
    environment.write_text(environment.read_text().replace("CPU, 2 threads", "NVIDIA A100"))
    page = compare(tmp_path / "out", *paths)
    assert ["a", "CPU, 2 threads"] in page.rows and ["b", "NVIDIA A100"] in page.rows


@pytest.mark.parametrize("again", ["a", "./a", "b/../a"])
def test_a_run_named_twice_is_refused(
    tmp_path: Path, again: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run(tmp_path / "a"), a_run(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    assert main(["a", "b", again]) == 2
    assert capsys.readouterr().err == f"{Path(again)}: is named twice; name each run once\n"
    assert not (tmp_path / "comparison").exists()


def test_a_comparison_does_not_overwrite_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    assert main([str(one), str(other), "--output", str(one)]) == 2
    assert capsys.readouterr().err == f"--output: {one} is the folder of a run; choose another\n"
    assert not (one / "report.md").exists()


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    paths = [a_run(tmp_path / str(seed), f"--seed={seed}") for seed in range(3)]
    found = []
    for _ in range(2):
        compare(tmp_path / "out", *paths)
        found.append({path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")})
    assert found[0] == found[1] and len(found[0]) == 9


def test_numbers_behind_a_comparison_are_tables(tmp_path: Path) -> None:
    paths = [
        a_run(tmp_path / str(decay), f"--weight_decay={decay}", grok=grok) for decay, grok in ((3, 400), (1, None))
    ]
    paths.append(a_run(tmp_path / "short", "--weight_decay=0.1", last=400))
    compare(tmp_path / "out", *paths)
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index("run")
    assert list(table.index) == [str(path) for path in paths] and list(table.weight_decay) == [3, 1, 0.1]
    first, second, short = (table.loc[str(path)] for path in paths)
    assert (first.steps, first.fit_step, first.gen_step, first.grok_gap, first.stays) == (2000, 100, 400, 4, 1)
    assert pd.isna(second.gen_step) and second.id_exact_match == 0.25 and second.train_exact_match == 1
    assert (bool(first.finished), bool(short.finished), short.steps, short.total_steps) == (True, False, 400, 2000)
    for run, path in zip((first, second), paths):
        curves = Run(path).metrics()
        final = curves[(curves.metric == "final_exact_match") & (curves.split == "id")]
        assert run.id_exact_match == final.value.iloc[-1]
    drawn = pd.read_csv(tmp_path / "out" / "figures" / "match_id.csv")
    assert list(drawn.columns) == ["runs", "number", "step", "id_exact_match"] and len(drawn) == 7 + 7 + 5
    assert list(drawn[drawn.runs == "weight_decay 3"].id_exact_match) == [0.25] * 4 + [1.0] * 3
    swept = pd.read_csv(tmp_path / "out" / "figures" / "sweep.csv")
    assert list(swept.weight_decay) == [3, 1, 0.1] and list(swept.fit_step) == [100] * 3


def test_what_is_no_run_is_left_out_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        a_run(tmp_path / "runs" / name, f"--seed={len(name) + ord(name)}")
    (tmp_path / "runs" / "claims").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    paths = sorted(map(str, (tmp_path / "runs").iterdir()))
    assert main([*paths, "--output", str(tmp_path / "out"), "--format", "pdf"]) == 0
    said = capsys.readouterr()
    left = [
        f"{tmp_path / 'runs' / name}: is left out, as it is no run: it has no recipe.yaml"
        for name in ("claims", "notes.txt")
    ]
    assert said.err.splitlines() == left and said.out == f"{tmp_path / 'out' / 'report.html'}\n"
    figures = {path.suffix for path in (tmp_path / "out" / "figures").iterdir()}
    assert figures == {".png", ".pdf", ".csv"}  # the page in Markdown shows PNG
    assert (tmp_path / "out" / "figures" / "match_id.pdf").read_bytes().startswith(b"%PDF")
    assert main([paths[0], paths[2]]) == 2
    assert capsys.readouterr().err == f"{paths[2]}: is not the folder of a run: it has no recipe.yaml\n"
    assert main([paths[0], "--format", "pgn"]) == 2
    assert capsys.readouterr().err == "--format: 'pgn' is no format of figures; allowed: png, svg, pdf\n"


def grid(folder: Path, steps: dict[tuple[float, float], list[int | None]]) -> list[Path]:
    """Runs over weight decay and train fraction with several seeds, which generalize at these steps."""
    return [
        a_run(
            folder / f"{decay}-{part}-{seed}", f"--weight_decay={decay}", f"--corpus.train_fraction={part}",
            f"--seed={seed}", grok=at,
        )
        for (decay, part), found in steps.items()
        for seed, at in enumerate(found)
    ]  # fmt: skip


def test_two_keys_that_are_swept_are_heat_maps(tmp_path: Path) -> None:
    steps = {(1, 0.5): [200, 400], (1, 0.3): [1000, None], (0.1, 0.5): [400, 2000], (0.1, 0.3): [None, None]}
    page = compare(tmp_path / "out", *grid(tmp_path, steps))
    table = pd.read_csv(tmp_path / "out" / "figures" / "crossed.csv")
    assert list(table.columns[-4:]) == ["fit_step", "gen_step", "grok_step", "last_step"] and len(table) == 8
    for (decay, part), found in steps.items():
        rows = table[(table.weight_decay == decay) & (table["corpus.train_fraction"] == part)]
        assert [None if pd.isna(step) else step for step in rows.gen_step] == found
    drawing = (tmp_path / "out" / "figures" / "crossed.svg").read_text()
    words = ("fits", "generalizes", "groks", "weight_decay", "corpus.train_fraction", "300", "1,000", "1 of 2", "2,000")
    assert all(f">{word}</text>" in drawing for word in words)
    at = {key: f"corpus.train_fraction {part} and weight_decay 1" for key, part in (("first", 0.5), ("last", 0.3))}
    assert f"It generalizes first at {at['first']}, at step 300, and last at" in page.text
    assert "in 1 of 4 cells it does not" in page.text


def test_keys_that_change_together_are_not_crossed(tmp_path: Path) -> None:
    paths = grid(tmp_path, {(1, 0.5): [200], (0.1, 0.3): [1000]})
    assert Differences.of([RunFolder.read(path) for path in paths]).crossed is None
    paths += grid(tmp_path, {(1, 0.3): [400]})
    crossed = Differences.of([RunFolder.read(path) for path in paths]).crossed
    assert crossed and set(crossed) == {"weight_decay", "corpus.train_fraction"}
