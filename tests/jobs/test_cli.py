"""The command line: fast help, clear errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from jobs import cli, recipes, settings
from jobs.recipes.registry import config_of
from tests.jobs.commands import nova


def test_help_names_every_command_and_how_to_see_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = nova(capsys, "--help")
    assert status == 0
    assert all(name in said for name in (*cli.COMMANDS, *recipes.NAMES))
    assert "mlflow ui" in said


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in cli.OWN_OPTIONS])
def test_each_command_shows_its_defaults_and_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = nova(capsys, command, "--help")
    assert status == 0
    assert f"Example: nova {command}" in " ".join(said.split())
    assert "(default" in said
    assert "--recipe NAME" in said
    assert "mlflow ui" in said


@pytest.mark.parametrize("recipe", recipes.NAMES)
@pytest.mark.parametrize("command", ["curate", "train", "generate", "evaluate", "refresh"])
def test_print_config_gives_what_set_takes(recipe: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, error = nova(capsys, command, "--recipe", recipe, "--print-config")
    assert (status, error) == (0, "")
    config = config_of(recipe, command)
    assert len(said.strip().splitlines()) == len(settings.flatten(config))
    given = [f"--set={line}" for line in said.strip().splitlines() if not line.endswith(("=None", "="))]
    status, again, error = nova(capsys, command, *given, "--print-config")
    assert (status, error) == (0, "")
    differing = set(said.splitlines()) ^ set(again.splitlines())
    assert all(line.endswith(("=None", "=")) or _unset(line, again) for line in differing), differing


def _unset(line: str, said: str) -> bool:
    """Whether a line differs only because None cannot be written with --set."""
    key = line.partition("=")[0]
    return any(f"{key}=" in each for each in said.splitlines())


def test_set_and_flags_change_any_field(capsys: pytest.CaptureFixture[str]) -> None:
    _, said, _ = nova(
        capsys, "curate", "--set", "motion.short_side=160", "--set", "latents.sizes=64x64,64x96", "--limit", "5",
        "--set", "decide.keep_duplicates=true", "--print-config",
    )  # fmt: skip
    lines = said.splitlines()
    for wanted in ("motion.short_side=160", "latents.sizes=64x64,64x96", "limit=5", "decide.keep_duplicates=True"):
        assert wanted in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["currate"], "did you mean curate?"),
        (["curate", "--recipe", "demmo"], "did you mean demo?"),
        (["curate", "--set", "motion.shortside=3"], "did you mean motion.short_side?"),
        (["curate", "--set", "limit"], "write key=value"),
        (["curate", "--recipe"], "--recipe needs a value"),
        (["demo", "--recipe", "t2i-512-0.6b"], "nova demo runs small models"),
        (["curate"], "--input is missing"),
        (["train"], "--tables is missing"),
        (["evaluate"], "--output is missing"),
        (["curate", "--inptu", "x"], "did you mean --input?"),
        (["train", "--steps", "many"], "--steps: invalid literal"),
        (["train", "--steps"], "--steps needs a value; nova train --help"),
        (["train", "--optimizer.name", "sgd"], "optimizer.name='sgd': choose adamw or muon"),
        (["train", "--optimizer.muon-lr", "1e-3"], "has no effect with optimizer.name=adamw"),
        (["refresh", "--run", "work/run", "--input", "."], "--run has no effect without --train"),
        (["train", "--set", "precision=bf8"], "error: precision='bf8': choose auto, bf16 or fp32;"),
        (["shapes", "--items", "many"], "--items: invalid literal"),
        (["zoo"], "choose one of build, check; nova zoo --help"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, error = nova(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert message in error
    assert error.startswith("nova: error: ")
    assert error.count("\n") == 1


def test_keys_of_the_version_before_still_work_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--set", "lr=0.5", "--global-batch", "32", "--set", "optimizer=muon", "--print-config")
    status, out, error = nova(capsys, "train", *arguments)
    assert status == 0
    assert {"optimizer.lr=0.5", "data.global_batch=32", "optimizer.name=muon"} <= set(out.splitlines())
    assert "--set lr is now --set optimizer.lr" in error
    assert "--global-batch is now --data.global-batch" in error
    _, out, _ = nova(capsys, "curate", "--set", "commits.part_rows=7", "--print-config")
    assert "commits.file_rows=7" in out.splitlines()
    _, out, _ = nova(capsys, "refresh", "--set", "trainer.ema_decay=0.5", "--print-config")
    assert "trainer.ema.decay=0.5" in out.splitlines()


def test_a_command_line_is_parsed_without_heavy_libraries() -> None:
    """They take seconds to import, which a mistyped option or --help must not cost."""
    code = (
        "import importlib, sys; from jobs import cli\n"
        "for command in cli.COMMANDS:\n"
        "    importlib.import_module(cli.MODULES.get(command, f'jobs.{command}'))\n"
        "    options = ['shapes'] if command == 'benchmark' else []\n"
        "    if command not in cli.OWN_OPTIONS: cli.build(command, cli.take_common(options))\n"
        "print(*sorted({'torch', 'ray', 'mlflow', 'transformers', 'diffusers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Any) -> int:
        raise AssertionError("a bug")

    monkeypatch.setattr("jobs.train.job.run", broken)
    with pytest.raises(AssertionError, match="a bug"):
        cli.main(["train"])
