"""Parameters with bounds: a frozen dataclass whose fields say what they allow.

Corpora, architectures, callbacks and analyses are all `Parameters`; a recipe fills their fields. Nothing here imports
torch or transformers, so that a mistake in a recipe is answered at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pipeline.utils.errors import ParameterError

T = TypeVar("T")
P = TypeVar("P", bound="Parameters")

SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def param(
    default: T,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> T:
    """Return a dataclass field with help and bounds: `ge` >=, `gt` >, `le` <=, `lt` <."""
    bounds = {"gt": gt, "ge": ge, "lt": lt, "le": le}
    metadata = {"help": help, **{name: bound for name, bound in bounds.items() if bound is not None}}
    # A dataclass field stands where its value will, so the declared type is the value's.
    return dataclasses.field(default=default, metadata=metadata)


def allowed(metadata: Mapping[str, Any]) -> str:
    """Return the bounds of a field in words, such as `>= 1` or `> 0 and < 1`; empty when it has none."""
    return " and ".join(f"{sign} {metadata[name]:.12g}" for name, sign in SIGNS.items() if name in metadata)


def within(value: Any, metadata: Mapping[str, Any]) -> bool:
    """Return whether `value` lies within a field's bounds, which only a finite number can break."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    return (
        not (isinstance(value, float) and not math.isfinite(value))
        and value > metadata.get("gt", -math.inf)
        and value >= metadata.get("ge", -math.inf)
        and value < metadata.get("lt", math.inf)
        and value <= metadata.get("le", math.inf)
    )


class Parameters:
    """The base of dataclasses whose fields are checked parameters; frozen, except where they also hold state.

    Raises:
        ParameterError: when a field lies outside its bounds, at construction.
    """

    tiny_values: ClassVar[Mapping[str, Any]] = {}  # parameters small enough for tests and documents
    unused: ClassVar[tuple[str, ...]] = ()  # keys that a class inherits and that change nothing in it

    if TYPE_CHECKING:  # subclasses are dataclasses, some frozen and some not, so that this class can be neither
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @classmethod
    def tiny(cls: type[P], folder: Path = Path()) -> P:
        """Return an entry small enough for tests and documents, which name no entry but take every one by this.

        One that reads files writes them into `folder` first, by default into this directory.
        """
        return cls(**cls.tiny_values)

    def __post_init__(self) -> None:
        for field in parameters_of(self):
            value = getattr(self, field.name)
            if not within(value, field.metadata):
                raise ParameterError(field.name, f"{value!r} is not {allowed(field.metadata) or 'finite'}")
            if field.name in self.unused and value != default_of(field):
                raise ParameterError(
                    field.name, f"{value!r} would change nothing in {type(self).__name__}: leave it out"
                )

    def check_here(self) -> None:
        """Checks what they need of this machine, such as a package, before they are used for training.

        Raises:
            ParameterError: when it is missing. Reading the recipe of a run that is there does not ask.
        """

    def as_dict(self) -> dict[str, Any]:
        """Return the parameters as plain values, in the order of declaration."""
        return {field.name: getattr(self, field.name) for field in parameters_of(self)}


def parameters_of(kind: Parameters | type[Parameters]) -> list[dataclasses.Field[Any]]:
    """Return the fields that have a value in a recipe; others, `field(init=False)`, are state."""
    return [field for field in dataclasses.fields(kind) if field.init]


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field, made by its factory where it has one."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
