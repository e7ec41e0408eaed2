"""No sample is lost because another one has its file, and no run ends in names that the file system refuses."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from pipelines.generation import file_names
from pipelines.generation.file_names import MAX_BYTES, check_file_system, check_paths, safe_name
from pipelines.generation.requests import SampleRequest
from pipelines.media.write import write_image
from pipelines.store.texts import repair
from tests.media_files import coded_frames


def request(path: str, prompt: str = "a") -> SampleRequest:
    return SampleRequest(prompt=prompt, path=path, seeds=(0,))


def test_a_prompt_that_fits_is_its_own_name() -> None:
    prompt = "a" * (MAX_BYTES - len("-24.mp4"))
    assert safe_name(prompt, "-24.mp4") == prompt
    assert safe_name("The clock reads 11:44? “Yes”.") == "The clock reads 11:44? “Yes”."


def test_a_prompt_is_cut_between_characters() -> None:
    name = safe_name("ü" * 300, "-0.mp4") + "-0.mp4"
    assert len(name.encode()) in (MAX_BYTES - 1, MAX_BYTES)
    assert set(name.removesuffix("-0.mp4")) == {"ü"}


def test_a_sample_may_have_the_longest_name(tmp_path: Path) -> None:
    name = safe_name("a long prompt " * 30, ".png") + ".png"
    assert len(name) == MAX_BYTES
    write_image(tmp_path / name, coded_frames(1)[0])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_samples_that_would_share_a_file_are_an_error_that_names_both_prompts() -> None:
    with pytest.raises(ValueError, match=r"two samples would share the file a b\.png: 'a/b' and 'a b'; reword"):
        check_paths([request("a b.png", "a/b"), request("c.png"), request("a b.png", "a b")])


@pytest.mark.parametrize("path", ["/a.png", "../a.png", "a/../b.png", ".png", "a", "cut\udce9.png", "a" * 252 + ".png"])
def test_a_path_that_no_sample_may_have_is_an_error(path: str) -> None:
    with pytest.raises(ValueError, match=r"prompt files$") as caught:
        check_paths([request(path)])
    str(caught.value).encode()


def test_names_of_other_languages_and_with_odd_characters_are_taken(tmp_path: Path) -> None:
    paths = ["a fantasy landscape-0.mp4", "A fantasy landscape-0.mp4", "café.png", "cafe\u0301.png", "a: <b>?*|\\.png"]
    check_file_system(tmp_path / "new" / "output", paths)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [("A landscape.png", "a landscape.png"), ("caf\u00e9.png", "cafe\u0301.png"), ("x/ß.png", "x/SS.png")],
)
@pytest.mark.odd_input(
    "Names and places",
    "Prompts that differ in case or in the spelling of accents alone, where the file system takes them for one name",
    "An error before anything is generated; where the file system tells them apart, both are generated.",
)
def test_names_that_the_file_system_does_not_tell_apart_are_an_error(
    one: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_file_system(tmp_path, [one, other])
    create = file_names._create
    monkeypatch.setattr(file_names, "_create", lambda path: create(path.with_name(file_names._folded(path.name))))
    with pytest.raises(ValueError, match="for one file; give an --output elsewhere"):
        check_file_system(tmp_path, [one, other])
    check_file_system(tmp_path, [one, "another.png"])
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_file_system_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(file_names, "_create", refuse)
    check_file_system(tmp_path, ["an ordinary prompt, with a comma-0.mp4"])
    with pytest.raises(ValueError, match=r"takes no file named 'a: b\.png' \(Invalid argument\); give an --output"):
        check_file_system(tmp_path, ["a: b.png"])


TEXT = strategies.text(strategies.characters(codec=None, exclude_categories=()), min_size=1, max_size=300)


@hypothesis.settings(derandomize=True, deadline=None, max_examples=100)
@hypothesis.given(prompt=TEXT)
@pytest.mark.odd_input(
    "Names and places",
    "Arbitrary prompts as names of samples, as official scorers expect them",
    "Every name is one that the file system takes; prompts that fit are their own name.",
)
def test_every_prompt_makes_a_name(prompt: str) -> None:
    prompt = repair(prompt)
    path = safe_name(prompt, "-0.mp4") + "-0.mp4"
    assert "/" not in path
    assert len(path.encode()) <= MAX_BYTES
    assert "/" in prompt or len(prompt.encode()) > 249 or path == f"{prompt}-0.mp4"
    check_paths([request(path)])
    with tempfile.TemporaryDirectory() as folder:
        check_file_system(Path(folder), [path])
