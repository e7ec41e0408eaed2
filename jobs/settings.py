"""Configs as flat `key=value` pairs: shown by --print-config, changed by --set, logged to MLflow.

A config is a frozen dataclass, possibly nested; a dotted key such as `optimizer.lr` names one field of it. A class may
list keys of earlier versions in class variables: RENAMED (old key -> new key, relative to the class), which are
accepted with a warning, and REMOVED (key -> what to do instead), which are errors. A method `unused_settings` may tell
which fields have no effect beside the others (field -> why, and what to do): to set them is an error.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from pipelines.core import model_hub

T = TypeVar("T")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field of a nested dataclass under its dotted key."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def extend(kind: type[T], base: Any, **changes: Any) -> T:
    """A config of a class that adds fields to the class of `base`: the values of `base`, and `changes`."""
    values = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**({name: value for name, value in values.items() if name in names} | changes))


def updated(config: T, values: Mapping[str, Any]) -> T:
    """A copy of a config with other values for some of its dotted keys, which is checked once they all are set."""
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name, dot, inner_key = key.partition(".")
        if dot:
            nested.setdefault(name, {})[inner_key] = value
        else:
            changes[name] = value
    groups = {name: updated(getattr(config, name), group) for name, group in nested.items()}
    # All at once: checks in __post_init__ compare fields, and half of a change may be invalid where the whole is not.
    return dataclasses.replace(config, **changes, **groups)  # type: ignore[type-var]


def check_used(config: Any, default: Any) -> None:
    """Refuses settings that have no effect.

    Args:
        config: what a user has made of the default.
        default: the recipe's config, whose own values may have no effect: they suit the recipe's other values.

    Raises:
        ValueError: a setting differs from the default although it is among the `unused_settings`.
    """
    values, defaults = flatten(config), flatten(default)
    for group, reason in _unused(config).items():
        for key, value in values.items():
            if (key == group or key.startswith(f"{group}.")) and value != defaults.get(key):
                raise ValueError(f"{key}={_text(value)} has no effect {reason}")


def _unused(config: Any, prefix: str = "") -> dict[str, str]:
    """The `unused_settings` of a config and of the configs inside it, under their dotted keys."""
    fields = config.unused_settings() if hasattr(config, "unused_settings") else {}
    unused = {prefix + name: reason for name, reason in fields.items()}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            unused |= _unused(value, f"{prefix}{field.name}.")
    return unused


def current_keys(stored: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """The flat keys of a nested dictionary that an earlier version may have written.

    Args:
        stored: a config as `dataclasses.asdict` gives it.
        renamed: keys of that version, and what they are called now.
    """

    def walk(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in values.items():
            flat |= walk(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        return flat

    return {renamed.get(key, key): value for key, value in walk(stored, "").items()}


def model_notes(config: Any) -> list[str]:
    """What a reader of results has to know about the models that a config names: one line a source of models."""
    values = {str(value) for value in flatten(config).values()}
    names_by_source = {
        source: sorted(v for v in values if v.startswith(source.prefix)) for source in model_hub.registered()
    }
    return [f"{', '.join(names)}: {source.note}" for source, names in names_by_source.items() if names and source.note]


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint for a misspelt name: '; did you mean X?', or the names there are to choose from."""
    choices = list(choices)
    last = name.rpartition(".")[2]
    # A close spelling first, then the same last name in another group, then anything that is alike at all.
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    # A key that moved to another group has the same last name: --lr means optimizer.lr.
    close = close or [key for key in choices if key.rpartition(".")[2] == last]
    close = close or difflib.get_close_matches(name, choices, n=1, cutoff=0.3)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; choose from {', '.join(choices[:20])}" if choices else ""


def to_flags(config: Any, assignments: Sequence[str]) -> list[str]:
    """Turns `key=value` pairs into command-line flags of the config's parser.

    Raises:
        ValueError: a pair without "=", or an unknown key (the nearest known one is named).
    """
    keys = flatten(config)
    flags: list[str] = []
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: write key=value")
        key = _current_key(config, key.strip().replace("-", "_"), keys, "--set ")
        if key not in keys:
            raise ValueError(f"unknown key {key!r}{nearest(key, keys)}")
        flags += _flag(key, value, keys[key], many=_takes_many(config, key))
    return flags


def current_flags(config: Any, arguments: Sequence[str]) -> list[str]:
    """Command-line options with those of earlier versions replaced by what they are called now."""
    keys = flatten(config)
    replaced: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            key = flag.removeprefix("--").replace("-", "_")
            current = _current_key(config, key, keys, "--")
            flag = flag if current == key else f"--{current.replace('_', '-')}"
        replaced.append(flag + equals + value)
    return replaced


def _current_key(config: Any, key: str, keys: Mapping[str, Any], prefix: str) -> str:
    """A key, or what it is called now, with a warning on standard error."""
    if key in keys:
        return key
    owner, parents, relative = config, "", key
    while True:
        removed = getattr(type(owner), "REMOVED", {})
        if relative.partition(".")[0] in removed:
            raise ValueError(f"{_spelt(prefix, key)} was removed; {removed[relative.partition('.')[0]]}")
        renamed = getattr(type(owner), "RENAMED", {})
        if relative in renamed:
            current = parents + renamed[relative]
            names = f"{_spelt(prefix, key)} is now {_spelt(prefix, current)}"
            print(f"nova: warning: {names}; the old name will be removed in the next version", file=sys.stderr)
            return current
        name, dot, inner_key = relative.partition(".")
        if not dot or not dataclasses.is_dataclass(getattr(owner, name, None)):
            return key
        owner, parents, relative = getattr(owner, name), f"{parents}{name}.", inner_key


def _spelt(prefix: str, key: str) -> str:
    """A key as a user writes it after --set, or as an option."""
    return prefix + (key.replace("_", "-") if prefix == "--" else key)


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
    # From the annotation and not the value, which may be an empty tuple or None.
    return "tuple[" in str(get_type_hints(type(config))[name])


def show(config: Any) -> str:
    """One `key=value` line a field, in the form that --set takes."""
    return "\n".join(f"{key}={_text(value)}" for key, value in flatten(config).items())


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(_text(element) for element in value)
    return str(value)


def parse(kind: Any, **options: Any) -> Any:
    """`tyro.cli`, which raises what is wrong in one line instead of drawing a box around it.

    Raises:
        ValueError: wrong use.
    """
    # Lazy, since `nova --help` does without a parser.
    import tyro
    from tyro import _errors as errors  # its hooks are not public yet, so pyproject.toml bounds tyro's version

    def refuse(event: errors.ParseErrorEvent) -> None:
        raise ValueError(f"{reason(event)}; {options['prog']} --help shows all options")

    def reason(event: errors.ParseErrorEvent) -> str:
        if isinstance(event, errors.UnrecognizedArgs):
            flag = event.tokens[0].partition("=")[0]
            return f"unrecognized option {flag}{nearest(flag, _option_names(kind, options.get('default')))}"
        if isinstance(event, errors.InstantiationFailure):
            name = "" if event.argument is None else f"{event.argument.lowered.name_or_flags[0]}: "
            return name + " ".join(event.message.split()).rstrip(".")
        if isinstance(event, errors.BadValue):
            return f"{event.argument.lowered.name_or_flags[0]} needs a value"
        if isinstance(event, errors.InvalidChoice):
            flag = event.argument.lowered.name_or_flags[0]
            return f"{flag}: invalid choice {event.value!r}; choose from {', '.join(event.choices)}"
        if isinstance(event, errors.MissingSubcommand):
            return f"choose one of {', '.join(event.subcommand_spec.parser_from_name)}"
        if isinstance(event, errors.MissingArgs):
            return f"missing {', '.join(argument.arg.lowered.name_or_flags[0] for argument in event.missing_arguments)}"
        return type(event).__name__

    with errors.on_parse_error(refuse):
        return tyro.cli(kind, **options)


def _option_names(kind: Any, default: Any) -> list[str]:
    """The options of a config's parser; none for a choice of subcommands."""
    if default is not None:
        names = list(flatten(default))
    else:
        names = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    return [f"--{name.replace('_', '-')}" for name in names]
