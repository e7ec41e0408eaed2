"""Every documented command line goes through the real parser; nothing is executed."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import re
import warnings

import pytest

from jobs import cli, settings, submit
from jobs.recipes import registry
from tests.docs.documents import CommandLine, command_lines, options, without_placeholders

TOOLS = ("parity", "describe", "bench")
COMMON = ("--recipe", "--set", "--print-config", "--help")
FOREIGN = {
    "--dashboard-host",  # ray start
    "--index-url",  # pip
    "--volumes",  # docker compose down
}
"""Options of other programs that pages name by themselves."""


class Parsed(Exception):  # noqa: N818 (it is no error)
    """Ends a command behind its parser."""


@functools.cache
def all_commands() -> tuple[CommandLine, ...]:
    return tuple(command_lines())


@functools.cache
def documented() -> dict[tuple[str, tuple[str, ...]], CommandLine]:
    """Command lines without repetitions, each with the first place that names it."""
    unique: dict[tuple[str, tuple[str, ...]], CommandLine] = {}
    for command in all_commands():
        unique.setdefault((command.program, command.arguments), command)
    return unique


@pytest.fixture
def parse_only(monkeypatch):
    """Makes every command raise `Parsed` once its command line is read."""

    def ending(parse):
        def parse_and_end(*arguments, **keywords):
            config = parse(*arguments, **keywords)
            if hasattr(config, "check"):
                config.check()
            raise Parsed

        return parse_and_end

    monkeypatch.setattr(settings, "parse", ending(settings.parse))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", ending(argparse.ArgumentParser.parse_args))


def parse(program: str, arguments: tuple[str, ...]) -> None:
    """Reads a command line as its program does, and stops there."""
    if program != "nova" and not arguments:  # a mention
        assert callable(importlib.import_module(program).main)
        return
    if program != "nova":
        with pytest.raises(Parsed):
            importlib.import_module(program).main(list(arguments))
        return
    if arguments[0] == "submit":
        own, sent = submit.split(arguments[1:])
        arguments = ("submit", *own)
        if sent:
            parse("nova", tuple(sent))
    if not any(argument.startswith("-") for argument in arguments):  # a mention, as in `nova zoo build clip`
        assert arguments[0] in cli.COMMANDS, f"no command nova {arguments[0]}"
        return
    with pytest.raises(Parsed):
        cli.run(list(arguments))


@pytest.mark.parametrize("key", list(documented()), ids=lambda key: str(documented()[key])[:150])
def test_a_documented_command_parses(key, parse_only):
    """Fails for unknown commands, options, recipes and keys, and for names that work with a warning only."""
    stderr = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(stderr):
        warnings.simplefilter("error")
        parse(*key)
    assert stderr.getvalue() == "", "the command line uses a former name"


def test_commands_are_found_wherever_they_are_documented():
    places = {command.where for command in all_commands()}
    assert {
        "README.md",
        "docs/ablation.md",
        "docs/operations.md",
        "jobs/cli.py",
        "jobs/curate.py",
        "infra/kuberay/curate.yaml",
        "Makefile",
        "nova_model/tools/parity.py",
        "pipelines/shapes_world/zoo/models/nova/README.md",
    } <= places
    assert {command.arguments[0] for command in all_commands() if command.program == "nova"} == set(cli.COMMANDS)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("nova", ("curat", "--input", "photos")),
        ("nova", ("zoo", "build", "clipp", "--output", "zoo")),
        ("nova", ("curate", "--inptu", "photos")),
        ("nova", ("curate", "--recipe", "t2i-512")),
        ("nova", ("curate", "--set", "latents.modle=zoo/vae")),
        ("nova", ("shapes", "--item", "3000")),
        ("nova", ("submit", "train", "--step", "3")),
    ],
)
def test_a_wrong_command_would_be_noticed(program, arguments, parse_only):
    with pytest.raises(ValueError, match=r"unknown|nrecognized"):
        parse(program, arguments)


@functools.cache
def all_keys() -> frozenset[str]:
    """Every key that --set takes, over commands and recipes."""
    commands = [name for name in cli.COMMANDS if name not in cli.OWN_OPTIONS]
    return frozenset(key for name in commands for key in settings.flatten(registry.config_of("demo", name)))


@functools.cache
def all_options() -> frozenset[str]:
    """Every option of every command and tool."""
    output = io.StringIO()
    for name in (*cli.OWN_OPTIONS, "zoo build", "zoo check"):
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            cli.run([*name.split(), "--help"])
    for name in TOOLS:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            importlib.import_module(f"nova_model.tools.{name}").main(["--help"])
    flags = {f"--{key.replace('_', '-')}" for key in all_keys()}
    return frozenset({*COMMON, *FOREIGN, *flags, *re.findall(r"--[a-z][\w.-]*", output.getvalue())})


def test_options_in_the_text_exist():
    unknown = []
    for page, span in options():
        words = without_placeholders(span.split())
        for option, value in zip(words, (*words[1:], ""), strict=False):
            if option == "--set" and value.partition("=")[0] not in ("", "key"):
                key = value.partition("=")[0]
                unknown += [] if key in all_keys() else [f"{page}: --set {key}"]
            elif option.startswith("--"):
                name = option.partition("=")[0]
                unknown += [] if name in all_options() else [f"{page}: {name}"]
    assert unknown == []
