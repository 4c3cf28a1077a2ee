"""Where recipes and accelerate configs lie: beside the package in a checkout, inside of it once it is installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SHIPPED = next((path for path in (PACKAGE / "shipped", PACKAGE.parent) if (path / "recipes").is_dir()), PACKAGE)
RECIPES = SHIPPED / "recipes"
