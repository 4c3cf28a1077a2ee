"""The table of all benchmarks: what scripts note, beside what was recorded on this processor before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
import bench
import bench_corpora

from pipeline.config.registry import names

SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests" / "benchmarks")!r})
from machine import note
note("a step", float(sys.argv[1]), "eager loop", 3.0, "s", 0.5)
note("loading", 2.0, "plain read", 1.0, "s")
sys.exit(int(sys.argv[2]))
"""


def test_a_slower_ratio_is_named_and_the_history_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench_tiny.py").write_text(SCRIPT)
    history = tmp_path / "history.jsonl"
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "HISTORY", history)

    def said(ours: str, status: str, *words: str) -> list[str]:
        monkeypatch.setattr(bench, "SCRIPTS", {"tiny": ([ours, status], ["1.5", "0"])})
        assert bench.main([*words]) == int(status)
        return capfd.readouterr().out.splitlines()

    first = said("1.5", "0", "--record")
    assert first[0].split() == ["case", "ours", "against", "ratio", "of", "floor", "was"]
    assert first[1].split() == ["a", "step", "1.5", "s", "eager", "loop", "3", "s", "2.00", "50%"]
    assert first[2].split() == ["loading", "2", "s", "plain", "read", "1", "s", "0.50"]
    assert said("1.53", "0")[1].endswith("1.96   50%       2.00")  # 2 % are within what a machine varies
    slower = said("2", "1")
    assert slower[1].endswith("1.50   50%       2.00 SLOWER") and slower[3].endswith("a limit is broken: tiny")
    assert not any("SLOWER" in line or "2.00 " in line.partition("%")[2] for line in said("2", "0", "--quick")[1:])
    (entry,) = map(json.loads, history.read_text().splitlines())
    assert entry["lines"][0] == {
        "bench": "tiny", "case": "a step", "ours": 1.5, "against": "eager loop", "theirs": 3.0, "unit": "s",
        "ratio": 2.0, "share": 0.5,
    }  # fmt: skip
    assert entry["revision"] and entry["processor"] and entry["quick"] is False


def test_every_corpus_has_a_case_and_one_is_measured(capfd: pytest.CaptureFixture[str]) -> None:
    assert {entry for entry, *_ in bench_corpora.CASES.values()} == set(names("corpora"))
    assert set(bench_corpora.FROM_FILES) <= set(names("corpora"))
    assert bench_corpora.main(["grammar", "reasoning_gym"]) == 0
    head, *rows = capfd.readouterr().out.splitlines()
    assert "memory MB" in head and [row.split()[0] for row in rows] == ["grammar", "reasoning_gym"]
    assert all(float(row.split()[2]) > 0 and float(row.split()[-2]) > 10 for row in rows)
    assert bench_corpora.main(["gramar"]) == 2
