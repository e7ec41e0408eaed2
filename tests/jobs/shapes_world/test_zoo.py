"""`nova zoo`: builds resume, checks print one JSON object, and the bundled models reach their bars."""

from __future__ import annotations

import json

import pytest

from jobs import cli
from pipelines.shapes_world.zoo import BUNDLED, check
from tests.jobs.commands import nova

COUNT = 32
SEED = 4321


def test_finished_models_are_not_built_again(tmp_path, capsys):
    command = ["zoo", "build", "text_encoder", "--output", str(tmp_path / "zoo"), "--steps", "1"]
    assert cli.run(command) == 0
    before = (tmp_path / "zoo" / "text_encoder" / "model.safetensors").stat().st_mtime_ns
    assert cli.run(command) == 0
    assert "text_encoder: finished" in capsys.readouterr().out
    assert (tmp_path / "zoo" / "text_encoder" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "capt"], "unknown model 'capt'; did you mean captioner"),
        (["build", "--steps", "0"], "at least 1"),
        (["check", "--count", "3"], "at least 20"),
        (["check", "--models", "/nowhere"], "holds no model of the zoo"),
        (["chek"], "chek"),
    ],
)
def test_wrong_use_is_one_line(arguments, message, capsys):
    status, _, error = nova(capsys, "zoo", *arguments)
    assert status == 2
    assert message in error
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1 or arguments == ["chek"], "the parser's own errors alone have a box"


@pytest.mark.parametrize("command", ["build", "check"])
def test_each_command_shows_its_defaults_and_an_example(command, capsys):
    status, out, _ = nova(capsys, "zoo", command, "--help")
    assert status == 0
    text = " ".join(out.split())
    assert f"Example: nova zoo {command}" in text
    assert "(default" in text


@pytest.mark.parametrize("name", ["vae", "motion", "aesthetic", "retrieval", "captions", "subject"])
def test_the_bundled_models_reach_their_bars(name):
    models = check.Models.in_folder(BUNDLED)
    count = 48 if name == "motion" else COUNT  # a few fast things outweigh the rest of a smaller sample
    scores = check.CHECKS[name](models, SEED, count)
    bars = {key: value for key, value in scores.items() if key in check.BARS}
    assert bars
    assert all(check.holds(key, value) for key, value in bars.items()), scores


def test_checks_are_printed_as_one_object(monkeypatch, capsys):
    scored = {"retrieval": lambda models, seed, count: {"clip_retrieval": 0.9 - seed / 100}}
    monkeypatch.setattr(check, "CHECKS", scored)
    assert cli.run(["zoo", "check", "--json", "--seed", "7", "--no-corpus"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"clip_retrieval": 0.83}
    assert cli.run(["zoo", "check", "--json", "--seed", "70", "--no-corpus"]) == 1


def test_missing_models_are_listed_and_count_as_missed(tmp_path, monkeypatch, capsys):
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft" / check.CARD).write_text("")
    two = {"motion": lambda *arguments: {"motion_epe": 0.5}, "vae": lambda *arguments: pytest.fail("there is no VAE")}
    monkeypatch.setattr(check, "CHECKS", two)
    assert cli.run(["zoo", "check", "--json", "--no-corpus", "--models", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1]) == {"motion_epe": 0.5}
    assert "not checked, since a model is missing (nova zoo build): vae" in output.err
