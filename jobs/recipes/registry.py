"""Finds a recipe by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jobs.benchmark import BenchmarkConfig
from jobs.recipes import NAMES
from jobs.recipes.recipe import Recipe
from jobs.recipes.released import RELEASES, released
from jobs.recipes.small import debug, demo, shapes
from jobs.settings import nearest

RECIPES: dict[str, Callable[[], Recipe]] = {
    "debug": debug,
    "demo": demo,
    "shapes": shapes,
    **{name: partial(released, release) for name, release in RELEASES.items()},
}
# `nova --help` lists the names without importing this module and, with it, every config.
assert tuple(RECIPES) == NAMES


def config_of(name: str, command: str) -> Any:
    """The config of a command in a recipe.

    Raises:
        ValueError: no such recipe (the nearest is named), or one that the command does not run.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{nearest(name, NAMES)}")
    if command == "demo" and name in RELEASES:
        raise ValueError(f"nova demo runs small models; --recipe {name} is for the other commands")
    # A recipe has one property for each command, of the same name.
    return getattr(RECIPES[name](), command)


def benchmarks_of(name: str) -> dict[str, BenchmarkConfig]:
    """The configs of the benchmarks in a recipe, by name.

    Raises:
        ValueError: no such recipe (the nearest is named).
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{nearest(name, NAMES)}")
    return RECIPES[name]().benchmarks
