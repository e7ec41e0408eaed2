"""`nova shapes`: a corpus appears complete, depends on its options alone, and overwrites no other files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from jobs import cli
from tests.jobs.commands import nova


def write(output: Path, *more: str) -> int:
    return cli.run(["shapes", "--items", "24", "--output", str(output), *more])


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kinds(folder: Path) -> list[str]:
    truths = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    return [truth["kind"] for truth in truths if truth["label"] != "broken"]


PICTURES = ("--video-share", "0")
"""Much faster to write than videos."""


def scenes(folder: Path) -> list[dict[str, Any]]:
    truths = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    return [scene for truth in truths for scene in truth["scenes"]]


def test_the_same_options_give_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("one", "3"), ("two", "3"), ("other", "4")):
        assert write(tmp_path / name, *PICTURES, "--seed", seed) == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one") != digests(tmp_path / "other")
    assert set(kinds(tmp_path / "one")) == {"image"}


def test_a_corpus_of_simple_videos(tmp_path):
    write(tmp_path / "corpus", "--video-share", "1", "--simple-share", "1")
    assert set(kinds(tmp_path / "corpus")) == {"video"}
    simple = scenes(tmp_path / "corpus")
    assert {scene["texture"] for scene in simple} == {"plain"}
    assert {len(scene["things"]) for scene in simple} == {1}
    assert {scene["things"][0]["path"] for scene in simple} == {"straight"}
    assert len({scene["things"][0]["shape"] for scene in simple}) == 6


def test_some_simple_scenes_have_textured_backgrounds(tmp_path):
    write(tmp_path / "corpus", *PICTURES, "--items", "60", "--simple-share", "1", "--textured-share", "0.5")
    simple = scenes(tmp_path / "corpus")
    assert {len(scene["things"]) for scene in simple} == {1}
    assert {scene["texture"] for scene in simple} == {"plain", "striped", "checkered", "dotted"}
    assert 0.3 < sum(scene["texture"] != "plain" for scene in simple) / len(simple) < 0.7


@pytest.mark.parametrize("option", ["--video-share", "--simple-share", "--textured-share"])
def test_a_share_is_one(option, tmp_path, capsys):
    status, _, error = nova(capsys, "shapes", option, "1.5", "--output", str(tmp_path / "corpus"))
    assert status == 2
    assert f"{option} 1.5: a share from 0 to 1" in error


def test_textured_grounds_are_for_simple_scenes(tmp_path, capsys):
    status, _, error = nova(capsys, "shapes", "--textured-share", "0.5", "--output", str(tmp_path / "corpus"))
    assert status == 2
    assert "give --simple-share, too" in error


def test_an_older_corpus_without_recorded_shares_counts_as_finished(tmp_path):
    corpus = tmp_path / "corpus"
    write(corpus, *PICTURES)
    note = corpus / "corpus.json"
    later = ("simple_share", "textured_share")
    note.write_text(json.dumps({key: value for key, value in json.loads(note.read_text()).items() if key not in later}))
    assert write(corpus, *PICTURES) == 0


def test_a_finished_corpus_stays_and_another_one_is_not_written_over_it(tmp_path, capsys):
    corpus = tmp_path / "corpus"
    write(corpus, *PICTURES)
    before = (corpus / "truth.jsonl").stat().st_mtime_ns
    assert write(corpus, *PICTURES) == 0
    assert (corpus / "truth.jsonl").stat().st_mtime_ns == before
    status, _, error = nova(capsys, "shapes", "--items", "25", *PICTURES, "--output", str(corpus))
    assert status == 2
    assert "give another folder" in error


def test_a_killed_command_leaves_no_corpus(tmp_path, monkeypatch):
    def killed(folder, **options):
        (Path(folder) / "media").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.shapes_world.corpus.write_corpus", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "corpus", *PICTURES)
    assert not (tmp_path / "corpus").exists()
    monkeypatch.undo()
    assert write(tmp_path / "corpus", *PICTURES) == 0
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["corpus"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output is missing"),
        (["--output", "x", "--items", "3"], "at least 20"),
        (["--output", "x", "--seed", "-1"], "from 0 on"),
    ],
)
def test_wrong_use_is_one_line(arguments, message, capsys):
    status, _, error = nova(capsys, "shapes", *arguments)
    assert status == 2
    assert message in error
    assert len(error.splitlines()) == 1


def test_other_files_are_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    status, _, error = nova(capsys, "shapes", "--items", "24", "--output", str(tmp_path))
    assert status == 2
    assert "holds other files" in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_help_shows_defaults_and_an_example(capsys):
    status, out, _ = nova(capsys, "shapes", "--help")
    assert status == 0
    text = " ".join(out.split())
    assert "Example: nova shapes" in text
    assert "(default: 120)" in text
