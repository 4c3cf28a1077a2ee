"""How the curves of a page are to be seen: of which splits, and on which axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.utils.errors import RecipeError
from pipeline.utils.suggest import did_you_mean


@dataclass(frozen=True)
class View:
    """`splits`: those that are drawn, in this order; none names all. `linear`: steps are not on a log axis."""

    splits: tuple[str, ...] = ()
    linear: bool = False

    def chosen(self, there: Sequence[str]) -> list[str]:
        """Return the splits to draw among those that there are.

        Raises:
            RecipeError: when one is named that there is not.
        """
        for split in self.splits:
            if split not in there:
                raise RecipeError("--splits", f"there is no split {split!r}{did_you_mean(split, there)}")
        return list(self.splits or there)


ALL_OF_IT = View()
