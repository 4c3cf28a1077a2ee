"""What an analysis is: parameters, and a table computed from a model and pairs of prompts.

One file per analysis. It knows nothing of run folders, steps or the Hub: `circuits.runner` walks the kept steps of a
run with one model instance and adds the step to each row. An `Overview` looks at the tables of another analysis.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.circuits._source import PAIRS as PAIRS
from pipeline.circuits._source import TOKENS as TOKENS
from pipeline.circuits._source import Corruption as Corruption
from pipeline.circuits._source import Pairs as Pairs
from pipeline.circuits._source import Source as Source
from pipeline.config.fields import Parameters, param
from pipeline.plots.base import Drawing
from pipeline.runs.checkpoints import check_steps
from pipeline.utils.errors import MismatchError, ParameterError, UnsupportedError

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

Columns = Mapping[str, "npt.ArrayLike | Sequence[Any]"]


@dataclass(frozen=True)
class Explanation(Parameters, abc.ABC):
    """What can stand in the `circuits` block of a recipe: an `Analysis` of models, or an `Overview` of tables."""

    steps: str = param("all", "kept steps to look at: all, last, log, or numbers such as 0,1000,2000")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps, "steps")

    @abc.abstractmethod
    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        """The figures of a table with a column `step`, by the ending of their name; empty for the main one.

        Curves over steps show `marks`.
        """


@dataclass(frozen=True)
class Analysis(Explanation):
    """An analysis of a language model on pairs of prompts; subclasses are frozen dataclasses, one per file."""

    split: str = param("id", "split that the prompts are taken from")
    pairs: int = param(300, "most pairs of prompts", ge=1)
    seed: int = param(0, "of the choice of prompts and of their corruption", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"pairs": 16}
    needs_float32: ClassVar[bool] = False  # differences of nearly equal numbers drown in half precision
    needs_edges: ClassVar[bool] = False  # what adds up to the residual stream has to be known
    same_length: ClassVar[bool] = False  # a position means the same in every prompt
    only: ClassVar[tuple[str, ...]] = ()  # the architectures that it can look at, by name; empty: all

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that will do; the first that a corpus has is taken."""
        return (self.split,)

    def check_split(self, known: Iterable[str]) -> None:
        """Whether a corpus has a split that will do.

        Raises:
            ParameterError: when it has none.
        """
        if not set(self.splits) & set(known):
            raise ParameterError("split", f"no split {self.split!r}; allowed: {', '.join(known)}")

    def choose(self, source: Source) -> Pairs:
        """The pairs to look at."""
        return source.pairs(self.split, self.pairs, self.seed)

    def fit(self, model: PreTrainedModel, pairs: Pairs) -> dict[str, Any]:
        """What all steps share and the last one decides, as plain values for `run`; most analyses have none."""
        return {}

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        """Checks that it can look at a model with these pairs, whatever its weights are; a run asks before it trains.

        Raises:
            UnsupportedError: for a model whose parts are not known.
            MismatchError: when model and pairs do not fit, or the analysis cannot take them.
        """
        from pipeline.circuits.hooks import Hooks

        pairs.check(model)
        if self.same_length and len(lengths := sorted(set(pairs.lengths.tolist()))) > 1:
            name = type(self).__name__
            raise MismatchError(f"{name} compares positions, and the prompts have {lengths[0]} to {lengths[-1]} tokens")
        Hooks(model)
        if self.only and model.config.model_type not in self.only:
            name, kind = type(self).__name__, type(model).__name__
            raise UnsupportedError(f"{name} is for {' and '.join(self.only)}, and {kind} is none")

    def run(self, model: PreTrainedModel, pairs: Pairs, **shared: Any) -> pa.Table:
        """The table of a model, which is looked at in eval mode and stays as it is, wherever it lies.

        Raises:
            UnsupportedError: as `check` does.
            MismatchError: as `check` does; and for weights in half precision where that is too coarse.
        """
        import pyarrow as pa
        import torch

        from pipeline.circuits.hooks import Hooks, evaluating

        self.check(model, pairs)
        name = type(self).__name__
        if self.needs_float32 and model.dtype not in (torch.float32, torch.float64):
            raise MismatchError(f"{name} needs weights in float32, not {model.dtype}; call model.float() first")
        with evaluating(model), torch.no_grad():
            hooks = Hooks(model).ungrouped() if self.needs_edges else Hooks(model)
            columns = self.measure(hooks, pairs, **shared)
        # What is not a number is null, of the type that it has at other steps.
        table = pa.table({key: pa.array(np.asarray(part), from_pandas=True) for key, part in columns.items()})
        return table.replace_schema_metadata({PAIRS: json.dumps(pairs.metadata)} if pairs.metadata else None)

    @abc.abstractmethod
    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        """The columns of the table, all equally long."""


@dataclass(frozen=True)
class Overview(Explanation):
    """A look at the tables of all steps of another analysis, without a model."""

    source: ClassVar[str]  # the analysis

    @abc.abstractmethod
    def compare(self, tables: Mapping[int, pa.Table], others: Mapping[int, pa.Table] | None = None) -> pa.Table:
        """A table with the column `step`, from the tables of a run by step, and of another run where one is given."""
