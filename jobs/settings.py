"""Configs as flat `key=value` pairs: shown by --print-config, changed by --set, logged to MLflow."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, get_type_hints

from pipelines.core import model_hub


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field of a nested dataclass under its dotted key."""
    flat: dict[str, Any] = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{each.name}.")
        else:
            flat[prefix + each.name] = value
    return flat


def model_notes(config: Any) -> list[str]:
    """What a reader of results has to know of the models that a config names, one line a source of models."""
    values = {str(value) for value in flatten(config).values()}
    named = {source: sorted(v for v in values if v.startswith(source.prefix)) for source in model_hub.registered()}
    return [f"{', '.join(names)}: {source.note}" for source, names in named.items() if names and source.note]


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: ' (did you mean X?)', or what there is to choose from."""
    known = list(known)
    last = name.rpartition(".")[2]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    close = close or [key for key in known if key.rpartition(".")[2] == last]
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known[:20])}"


def to_flags(config: Any, assignments: Sequence[str]) -> list[str]:
    """Turns `key=value` pairs into command-line flags of the config's parser.

    Raises:
        ValueError: a pair without "=", or an unknown key (the nearest known one is named).
    """
    known = flatten(config)
    flags: list[str] = []
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: write key=value")
        key = key.strip().replace("-", "_")
        if key not in known:
            raise ValueError(f"unknown key {key!r}{nearest(key, known)}")
        flags += _flag(key, value, known[key], many=_takes_many(config, key))
    return flags


def _flag(key: str, value: str, current: Any, *, many: bool) -> list[str]:
    flag = key.replace("_", "-")
    if isinstance(current, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError(f"--set {key}={value}: write true or false")
        parent, dot, name = flag.rpartition(".")
        return [f"--{flag}" if value.lower() == "true" else f"--{parent}{dot}no-{name}"]
    return [f"--{flag}", *value.split(",")] if many else [f"--{flag}={value}"]


def _takes_many(config: Any, key: str) -> bool:
    *parents, name = key.split(".")
    for parent in parents:
        config = getattr(config, parent)
    return "tuple[" in str(get_type_hints(type(config))[name])


def show(config: Any) -> str:
    """One `key=value` line a field, in the form that --set takes."""
    return "\n".join(f"{key}={_text(value)}" for key, value in flatten(config).items())


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(_text(each) for each in value)
    return str(value)


def parse(kind: Any, **options: Any) -> Any:
    """`tyro.cli`, with one line where it would draw a box of several around what is wrong.

    Raises:
        ValueError: wrong use.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, **options)
    except SystemExit as ended:
        if ended.code != 2:
            raise
    raise ValueError(f"{_told(said.getvalue())}; {options['prog']} --help says more")


def _told(box: str) -> str:
    """What an error's box says between its title and the next rule, and the first option that it proposes."""
    from rich.text import Text

    rows = [row.strip("│ ") for row in Text.from_ansi(box).plain.splitlines()[1:]]
    parts = [list(part) for is_rule, part in groupby(rows, lambda row: set(row) <= set("─-╰╯")) if not is_rule]
    found = " ".join(parts[0] if parts else box.split()).rstrip(".: ")
    if found.startswith("Error parsing "):
        subject, _, message = found.removeprefix("Error parsing ").partition(": ")
        found = f"{subject}: {message}" if subject.startswith("-") else message
    if found.startswith("Unrecognized"):
        proposed = [row.split()[0] for part in parts[1:] for row in part if row.startswith("--")]
        found += f"; did you mean {proposed[0]}?" if proposed else ""
    return found
