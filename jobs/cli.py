"""`nova COMMAND`: the command line. Nothing heavy is imported before a command runs.

nova curate --recipe debug --input ~/photos --tables work/tables
nova curate --help
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs import exit_codes
from jobs.search_path import ignore_working_directory
from pipelines.store.texts import repair

MODULES = {
    "train": "jobs.train.job",
    "ablate": "jobs.ablate.job",
    "shapes": "jobs.shapes_world.corpus",
    "zoo": "jobs.shapes_world.zoo",
}
"""Where a command is, if not in jobs/COMMAND.py."""
COMMANDS = {
    "curate": "media files or a manifest -> scored, deduplicated, captioned, encoded tables",
    "train": "tables -> a trained NOVA",
    "generate": "a checkpoint and prompts -> images and videos",
    "evaluate": "generated (or any) media -> scores",
    "benchmark": "a checkpoint -> its scores in a benchmark, such as nova benchmark shapes",
    "refresh": "curate what is new in a source, and train on it; for schedules",
    "submit": "send any of these commands to a Ray cluster as a job",
    "ablate": "ablation study of short trainings",
    "shapes": "write a synthetic corpus with ground truth",
    "zoo": "train and check the bundled small models",
    "demo": "the whole loop on small models and a synthetic corpus",
}
OWN_OPTIONS = ("submit", "shapes", "zoo")
"""Commands that parse their own command line, because it is no recipe's config or belongs to the job that is sent."""
AUDITED = ("curate", "refresh")
"""Commands that take audits of the tables they fill."""
USAGE = """usage: nova COMMAND [--recipe NAME] [--set key=value ...] [--print-config] [options]

commands:
{commands}

options of most commands:
  --recipe NAME       start from a named run; without it the small models of `debug`:
                      {recipes}
  --set key=value     change any field of its config; may be repeated
  --print-config      print the config, one key=value per line as --set takes it, and stop
  --help              all options with their defaults, and an example

{runs}"""
OPTIONS = "Besides the options below: --recipe NAME, --set key=value, --print-config (see nova --help)."
RUNS = """Runs are kept in MLflow: a file mlflow.db beside the outputs, or the server named by MLFLOW_TRACKING_URI.
Look at them with: mlflow ui --backend-store-uri sqlite:///work/mlflow.db"""


@dataclass(frozen=True)
class Invocation:
    """The options that every command has, separated from those of the command."""

    recipe: str | None
    assignments: tuple[str, ...]
    print_config: bool
    options: tuple[str, ...]
    """Those of the command itself."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its status, one of `jobs/exit_codes.py`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # this process is the command's own
        ignore_working_directory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Prompts and names of files are printed, of which a terminal may not know every character.
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_text(arguments)
        status = run(arguments)
    except KeyboardInterrupt:
        print("nova: stopped; run the same command again to continue", file=sys.stderr)
        status = exit_codes.STOPPED
    except BrokenPipeError:  # the reader of our output has closed it, as `| head` does
        # Python flushes standard output once more when it exits, and would complain about the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except Exception as error:
        # These are no faults of the program, and a traceback would hide the one line that helps.
        known = exit_codes.of_error(error)
        if known is None or os.environ.get("NOVA_TRACEBACK"):
            raise
        status, message = known
        print(f"nova: error: {message}", file=sys.stderr)
    sys.exit(status)


def _check_text(arguments: Sequence[str]) -> None:
    """Raises ValueError for an argument or a working directory that is not UTF-8, which no table could store."""
    texts = {ascii(argument): argument for argument in arguments}
    with contextlib.suppress(OSError):  # the folder may have been deleted
        texts["working directory"] = os.getcwd()
    for name, text in texts.items():
        if repair(text) != text:
            raise ValueError(
                f"{name} is not valid UTF-8; correct or rename it, or give the bytes of an --input as addresses quote "
                "them, such as file:///photos/caf%E9"
            )


def run(arguments: list[str]) -> int:
    """Runs one command.

    Raises:
        ValueError: wrong use; the message names the remedy.
    """
    from jobs import recipes

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        listed = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
        print(USAGE.format(commands=listed, recipes=", ".join(recipes.NAMES), runs=RUNS))
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        from jobs.settings import nearest

        raise ValueError(f"unknown command {command!r}{nearest(command, COMMANDS)}")
    job = importlib.import_module(MODULES.get(command, f"jobs.{command}"))
    if command == "zoo":
        return job.main(arguments[1:], curation=_demo_curation)
    if command in OWN_OPTIONS:
        return job.main(arguments[1:])
    invocation = take_common(arguments[1:])
    config = build(command, invocation)
    if invocation.print_config:
        from jobs.settings import show

        print(show(config))
        return 0
    from jobs.runtime.cluster import check

    check(config.address)  # before anything is made
    execute: Callable[..., int] = job.run
    if command in AUDITED:
        from jobs.shapes_world.audit import audit_corpus

        return execute(config, auditors=[audit_corpus])
    return execute(config)


def _demo_curation() -> Any:
    """How `nova zoo check` curates: recipes import the shapes world, so it cannot import them."""
    from jobs.recipes.registry import config_of

    return config_of("demo", "curate")


def take_common(arguments: Sequence[str]) -> Invocation:
    """Separates --recipe, --set and --print-config from the options of the command.

    Raises:
        ValueError: an option lacks its value.
    """
    recipe, assignments, print_config, options = None, [], False, []
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if name in ("--recipe", "--set"):
            value = value if equals else next(remaining, "")
            if not value:
                raise ValueError(f"{name} needs a value, as in {name} {'demo' if name == '--recipe' else 'key=value'}")
            if name == "--recipe":
                recipe = value
            else:
                assignments.append(value)
        elif argument == "--print-config":
            print_config = True
        else:
            options.append(argument)
    return Invocation(recipe, tuple(assignments), print_config, tuple(options))


def build(command: str, invocation: Invocation) -> Any:
    """The command's config: the recipe's, changed by --set and by the command's own options.

    Raises:
        ValueError: unknown recipe, unknown key, a value that a config refuses, or a setting that has no effect.
    """
    from jobs import settings
    from jobs.recipes.registry import benchmarks_of, config_of

    recipe = invocation.recipe or ("demo" if command == "demo" else "debug")
    prog, options = f"nova {command}", list(invocation.options)
    if command == "benchmark":
        from jobs.benchmark import select

        default, options = select(benchmarks_of(recipe), options)
        prog += f" {default.name}"
    else:
        default = config_of(recipe, command)
    flags = settings.to_flags(default, invocation.assignments)
    # --flag VALUE on the command line takes precedence over --set, in any order.
    config = settings.parse(
        type(default),
        default=default,
        args=[*flags, *settings.current_flags(default, options)],
        prog=prog,
        description=f"{inspect.cleandoc(type(default).__doc__ or '')}\n\n{OPTIONS}\n\n{RUNS}",
    )
    settings.check_used(config, default)
    return config


if __name__ == "__main__":
    main()
