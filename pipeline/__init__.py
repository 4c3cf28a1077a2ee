"""A laboratory for grokking in language models: recipes become grokked, measured, checkpointed, explained models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api.run import Run

__version__ = "0.1.0"
__all__ = ["Run", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Run` when it is first asked for, so that importing the package stays quick."""
    if name == "Run":
        from pipeline.api.run import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
