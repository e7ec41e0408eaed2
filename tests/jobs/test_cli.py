"""The command line: fast help, clear errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
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
    switches = ["--train"] if command == "refresh" else []  # without it, trainer.* has no effect, which is an error
    status, said, error = nova(capsys, command, "--recipe", recipe, *switches, "--print-config")
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
        (["generate", "--precision", "foo"], "--precision: invalid choice 'foo'; choose from auto, bf16, fp16, fp32"),
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


@pytest.mark.parametrize("argument", ["caf\udce9", "--prompt=cut \ud83d"])
@pytest.mark.odd_input(
    "Text",
    "An argument of a command that is not UTF-8",
    "An error before anything is made, which names the argument; folders of such names are given as addresses.",
)
def test_an_argument_that_is_not_utf8_is_one_line(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, error = nova(capsys, "generate", "--prompt", "a cat", argument)
    assert (status, out) == (2, "")
    assert f"nova: error: {argument!a} is not valid UTF-8; correct or rename it" in error
    assert error.count("\n") == 1


def test_a_working_directory_that_is_not_utf8_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ordner\udce9"
    folder.mkdir()
    monkeypatch.chdir(folder)
    status, _, error = nova(capsys, "--help")
    assert status == 2
    assert "working directory is not valid UTF-8" in error


def test_text_that_a_terminal_does_not_know_is_printed_in_its_escaped_form() -> None:
    code = (
        "import sys\nfrom jobs import cli\ncli.run = lambda arguments: print('caf\\xe9 \\ud83d') or 0\ncli.main(['x'])"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (0, "caf\\xe9 \\ud83d\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("refresh trainer.steps=7", "trainer.steps=7 has no effect without --train; add --train"),
        ("refresh trainer.optimizer.lr=1", "trainer.optimizer.lr=1.0 has no effect without --train"),
        ("generate sampling.guidance_scale=1 sampling.guidance_renorm=0.5", "without guidance; set sampling"),
        ("generate sampling.guidance_scale=1 sampling.negative_motion=2", "no effect without guidance"),
        ("generate sampling.guidance_scale=1 sampling.guidance_trunc=9", "no effect without guidance"),
        ("generate sampling.guidance_scale=1 sampling.min_guidance_scale=0.5", "no effect without guidance"),
        ("benchmark shapes generate.sampling.guidance_scale=1 generate.sampling.guidance_trunc=9", "without guidance"),
        ("generate samples_at_once=4", "samples_at_once=4 has no effect above the 2 files of a batch"),
        ("curate shots.detector=content shots.min_change=3", "min_change=3.0 has no effect with shots.detector=co"),
        ("curate decide.min_motion=1 decide.keep_motion=0.5", "has no effect beside decide.keep_motion=0.5"),
        ("curate decide.min_aesthetic=1 decide.keep_aesthetic=0.5", "no effect beside decide.keep_aesthetic=0.5"),
        ("curate --recipe=t2i-512-0.6b caption.frames=1 caption.as_video=true", "no effect with caption.frames=1"),
        ("curate aesthetic.pretrained=openai", "no effect on zoo/clip, which holds its own weights"),
        ("evaluate aesthetic.pretrained=openai", "aesthetic.pretrained=openai has no effect on zoo/clip"),
        ("evaluate clip_alignment.pretrained=openai", "clip_alignment.pretrained=openai has no effect on zoo/clip"),
        ("train preset=nova-d48w1024-sd512 ablate=no_motion", "ablate=no_motion has no effect on preset nova-d48w102"),
        ("train preset=nova-d48w1024-sd512 ablate=no_scaling", "which has nothing that no_scaling removes"),
        ("train ablate=pre_norm,post_add_norm", "ablate=pre_norm,post_add_norm: norms have one place"),
        ("ablate only=flow rates=0.1,0.2", "rates=0.1,0.2 has no effect without one of the variants pre_norm"),
        ("ablate only=flow rate_steps=7", "rate_steps=7 has no effect without one of the variants"),
        ("benchmark shapes shapes.tasks=colors shapes.per_level=7", "per_level=7 has no effect on the tasks colors"),
        ("benchmark shapes shapes.tasks=direction shapes.motion_levels=1,2", "or add speed to shapes.tasks"),
        ("benchmark shapes shapes.tasks=speed shapes.calibration=2", "add image_to_video or extrapolation to shapes"),
        ("benchmark shapes shapes.tasks=speed shapes.samples=2", "shapes.samples=2 has no effect on the tasks speed"),
        ("benchmark shapes shapes.tasks=colors generate.full_chroma=True", "no effect on image tasks"),
        ("demo shapes.per_level=7", "shapes.per_level=7 has no effect on the tasks single_object, colors, direction"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_an_error(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, *options = line.split()
    arguments = [f"--set={option}" if "=" in option and option[0] != "-" else option for option in options]
    status, out, error = nova(capsys, command, *arguments, "--print-config")
    assert (status, out) == (2, "")
    assert message in error
    assert error.startswith("nova: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "refresh --train trainer.steps=7",
        "generate --recipe=shapes sampling.guidance_scale=1",  # negative_motion is the recipe's
        "generate --recipe=shapes sampling.guidance_scale=1 sampling.negative_motion=None",
        "generate sampling.guidance_scale=1 sampling.image_guidance_scale=2 sampling.guidance_renorm=0.5",
        "generate sampling.guidance_scale=1 sampling.min_guidance_scale=3 sampling.guidance_trunc=9",
        "generate samples_at_once=4 resources.batch_size=4",
        "generate samples_at_once=4 benchmark=dpg_bench benchmark_data=x",  # its files hold four samples each
        "curate --recipe=shapes decide.keep_aesthetic=0.5",
        "curate --recipe=shapes decide.keep_aesthetic=0.5 decide.min_aesthetic=None",
        "curate caption.frames=1",
        "curate caption.frames=1 caption.as_video=false",
        "curate --recipe=t2i-512-0.6b aesthetic.model=zoo/clip",
        "train ablate=no_motion,no_scaling,pre_norm",
        "ablate only=flow,pre_norm rates=0.1,0.2 rate_steps=7",
        "benchmark shapes --recipe=shapes shapes.tasks=colors",
        "benchmark shapes shapes.per_level=7 shapes.motion_levels=1,2 shapes.calibration=2 generate.full_chroma=True",
    ],
)  # fmt: skip
def test_settings_of_a_recipe_and_those_with_an_effect_are_accepted(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = line.split()
    arguments = [f"--set={option}" if "=" in option and option[0] != "-" else option for option in options]
    status, _, error = nova(capsys, command, *arguments, "--print-config")
    assert (status, error) == (0, "")


def test_keys_of_the_version_before_still_work_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--set", "lr=0.5", "--global-batch", "32", "--set", "optimizer=muon", "--print-config")
    status, out, error = nova(capsys, "train", *arguments)
    assert status == 0
    assert {"optimizer.lr=0.5", "data.global_batch=32", "optimizer.name=muon"} <= set(out.splitlines())
    assert "--set lr is now --set optimizer.lr" in error
    assert "--global-batch is now --data.global-batch" in error
    _, out, _ = nova(capsys, "curate", "--set", "commits.part_rows=7", "--print-config")
    assert "commits.file_rows=7" in out.splitlines()
    _, out, _ = nova(capsys, "refresh", "--train", "--set", "trainer.ema_decay=0.5", "--print-config")
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
