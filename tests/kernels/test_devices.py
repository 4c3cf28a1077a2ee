"""Nothing that Apple's MPS lacks is asked of a device: a Mac's first evaluation would end the run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.kernels import devices
from pipeline.kernels.devices import widest
from tests.tiny import COMPOSITION, RECIPE, ROOT
from tests.training.test_trainer import trainer_of

WIDE = ("float64", "double", "complex128", "cdouble")
FACTORIES = ("zeros", "ones", "full", "tensor", "arange", "empty")


def wide_places(source: str) -> list[int]:
    """Lines in which a tensor may become one of float64 on a device: anywhere but on the CPU.

    Allowed are `.cpu().double()`, torch's factories without a device, comparisons of a dtype, and `widest` itself.
    """
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def is_fine(node: ast.Attribute) -> bool:
        above = parents[node]
        value = node.value
        if isinstance(value, ast.Name) and value.id in ("np", "npt", "pa"):
            return True
        if isinstance(above, ast.Call) and above.func is node:  # x.double()
            return isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "cpu"
        while isinstance(above, (ast.Tuple, ast.keyword, ast.IfExp)):
            above = parents[above]
        if isinstance(above, (ast.Compare, ast.Return)):
            return isinstance(above, ast.Compare) or getattr(parents[above], "name", "") == "widest"
        function = above.func if isinstance(above, ast.Call) else None
        is_factory = (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and (function.value.id, function.attr) in [("torch", name) for name in FACTORIES]
        )
        return is_factory and not any(word.arg == "device" for word in above.keywords)

    found = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in WIDE]
    return [node.lineno for node in found if not is_fine(node)]


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("*.py")), ids=lambda path: path.stem)
def test_no_file_puts_float64_on_a_device(path: Path) -> None:
    assert wide_places(path.read_text()) == []


@pytest.mark.parametrize(
    ("line", "is_bad"),
    [
        ("x.double()", True),
        ("x.double().cpu()", True),
        ("x.cpu().double()", False),
        ("x.sum(1, dtype=torch.float64)", True),
        ("x.to(torch.float64)", True),
        ("torch.zeros(3, dtype=torch.float64, device=x.device)", True),
        ("torch.zeros(3, dtype=torch.float64)", False),
        ("torch.zeros_like(x, dtype=torch.float64)", True),
        ("x.dtype == torch.float64", False),
        ("x.dtype in (torch.float32, torch.float64)", False),
        ("y = torch.float64", True),
        ("np.zeros(3, np.float64)", False),
        ("x.to(torch.complex128)", True),
    ],
)
def test_what_counts_as_float64_on_a_device(line: str, is_bad: bool) -> None:
    assert bool(wide_places(line)) is is_bad


class NoFloat64(TorchDispatchMode):
    """Ends at an operation that takes or gives float64, as one on MPS does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, found)):
            assert not isinstance(leaf, torch.Tensor) or leaf.dtype not in (torch.float64, torch.complex128), func
        return found


def test_the_widest_type_of_a_device() -> None:
    assert widest(torch.device("cpu")) == widest(torch.device("cuda", 1)) == torch.float64
    assert widest(torch.device("mps")) == torch.float32


@pytest.mark.parametrize("text", [RECIPE, COMPOSITION], ids=["group", "composition"])
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--objective.loss", "stablemax"),
        ("--optimizer", "{grokfast: {average: ma, window: 2}}"),
        ("--optimizer", "{orthogonal: {}}"),
    ],
    ids=["plain", "stablemax", "moving average", "orthogonal"],
)
def test_training_and_evaluation_need_no_float64(
    text: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "NARROW", {"cpu"})
    trainer = trainer_of(tmp_path, text, "--max_steps", "3", "--save_strategy", "no", *words)
    with NoFloat64():
        trainer.train()
        narrow = trainer.evaluate()
    monkeypatch.undo()
    exact = trainer.evaluate()
    for key in exact:
        if "seconds" not in key:
            assert narrow[key] == pytest.approx(exact[key], rel=1e-5), key
