"""A listing is compared with the tables: nothing is read twice, and no change goes unnoticed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.curation.changes import Change, find_changes
from pipelines.curation.runner import CommitPolicy
from pipelines.media.sources import Source, list_sources
from pipelines.store.tables import Tables
from tests.local_curation import READING, LocalCuration, LocalRunner, write_colour


@pytest.fixture
def curation(tmp_path: Path) -> LocalCuration:
    return LocalCuration(tmp_path / "tables", captions="source")


def write_manifest(path: Path, **captions: str | list[str] | None) -> Path:
    """A manifest of colours with their captions; the pictures are written where they are missing."""
    lines = []
    for colour, listed in captions.items():
        if not (path.parent / f"{colour}.png").exists():
            write_colour(path.parent / f"{colour}.png", colour)
        captions_listed = listed if isinstance(listed, list) else [listed]
        lines += [{"uri": f"{colour}.png"} | ({"caption": text} if text else {}) for text in captions_listed]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def changes(tables: Tables, place: Path) -> list[tuple[str, str]]:
    runner = LocalRunner(tables, CommitPolicy(), retry_failures=False)
    found = find_changes(runner, READING, list_sources(str(place)))
    return [(Path(change.uri).name, change.kind) for change in found]


def source_captions(curation: LocalCuration) -> dict[str, tuple[str | None, list[str]]]:
    """The caption of each clip and those of its asset, by file name."""
    assets = {row["asset_id"]: row["source_captions"] for row in curation.rows("assets")}
    return {
        Path(clip["uri"]).stem: (clip["source_caption"], assets[clip["asset_id"]]) for clip in curation.rows("clips")
    }


@pytest.mark.odd_input(
    "Moved and changed data",
    "Captions that are added to a manifest, or corrected there, after the media were curated",
    "The next run stores them without reading the media, and encodes them where source captions are encoded.",
)
def test_captions_of_a_manifest_that_come_later_are_taken(curation: LocalCuration, tmp_path: Path) -> None:
    curation.run(write_manifest(tmp_path / "m.jsonl", red="a rod square", blue=None, green="green"))
    assert curation.encoded_texts() == ["a rod square", "blue, captioner 1", "green"]
    place = write_manifest(tmp_path / "m.jsonl", red="a red square", blue="a blue square", green="green")
    assert changes(curation.tables, place) == [("red.png", "caption"), ("blue.png", "caption")]
    for path in tmp_path.glob("*.png"):  # what cannot be read needs no reading
        path.rename(path.with_suffix(".away"))
    summary = curation.run(place)
    assert (summary.sources, summary.unchanged_sources, summary.new_captions) == (3, 3, 2)
    assert (summary.new_examples, summary.removed_examples, summary.failures.total()) == (2, 2, 0)
    assert source_captions(curation) == {
        "red": ("a red square", ["a red square"]),
        "blue": ("a blue square", ["a blue square"]),
        "green": ("green", ["green"]),
    }
    assert curation.encoded_texts() == ["a blue square", "a red square", "green"]
    assert curation.is_settled(place)


@pytest.mark.odd_input(
    "Moved and changed data",
    "A caption file beside an image is written or changed after the image was curated",
    "The next run stores the caption without reading the image.",
)
def test_caption_files_that_come_later_are_taken(curation: LocalCuration, tmp_path: Path) -> None:
    write_colour(tmp_path / "media/red.png", "red")
    write_colour(tmp_path / "media/blue.png", "blue")
    (tmp_path / "media/red.txt").write_text("rod")
    curation.run(tmp_path / "media")
    (tmp_path / "media/red.txt").write_text("red")
    (tmp_path / "media/blue.txt").write_text("blue")
    assert curation.run(tmp_path / "media").new_captions == 2
    assert source_captions(curation) == {"red": ("red", ["red"]), "blue": ("blue", ["blue"])}
    (tmp_path / "media/red.txt").unlink()
    assert curation.is_settled(tmp_path / "media"), "a caption file that is gone says nothing"


def test_with_captions_of_the_captioner_no_example_is_encoded_again(tmp_path: Path) -> None:
    curation = LocalCuration(tmp_path / "tables")
    curation.run(write_manifest(tmp_path / "m.jsonl", red=None))
    summary = curation.run(write_manifest(tmp_path / "m.jsonl", red="red"))
    assert (summary.new_captions, summary.new_examples) == (1, 0)
    assert replace(curation, captions="source").run().new_examples == 1
    assert curation.encoded_texts() == ["red"]


def test_a_corrected_caption_is_encoded_although_the_media_are_gone(curation: LocalCuration, tmp_path: Path) -> None:
    curation.run(write_manifest(tmp_path / "m.jsonl", red="rod"))
    place = write_manifest(tmp_path / "m.jsonl", red="red")
    (tmp_path / "red.png").unlink()
    curation.run(place)
    assert curation.encoded_texts() == ["red"]


def test_several_captions_of_one_picture_stay_together(curation: LocalCuration, tmp_path: Path) -> None:
    place = write_manifest(tmp_path / "m.jsonl", red=["one", "two", "tree"])
    curation.run(place)
    assert curation.is_settled(place)
    place = write_manifest(tmp_path / "m.jsonl", red=["one", "two", "three"])
    curation.run(place)
    assert source_captions(curation)["red"] == ("one", ["one", "two", "three"])
    assert curation.is_settled(place)


def test_lines_with_one_address_may_lie_apart(curation: LocalCuration, tmp_path: Path) -> None:
    place = write_manifest(tmp_path / "m.jsonl", red="one", blue="blue")
    curation.run(place)
    place.write_text(place.read_text() + json.dumps({"uri": "red.png", "caption": "two"}) + "\n")
    curation.run(place)
    assert source_captions(curation)["red"] == ("one", ["one", "two"])
    assert curation.is_settled(place)


def test_captions_of_other_addresses_are_preserved(curation: LocalCuration, tmp_path: Path) -> None:
    first, second = (
        write_manifest(write_colour(tmp_path / name / "red.png", "red").with_name("m.jsonl"), red=caption)
        for name, caption in (("a", "rod"), ("b", "a square"))
    )
    curation.run(first)
    curation.run(second)
    assert source_captions(curation)["red"] == ("rod", ["rod", "a square"]), "a copy does not change the clip's caption"
    curation.run(write_manifest(first, red="red"))
    assert source_captions(curation)["red"] == ("red", ["red", "a square"])
    assert curation.is_settled(first)
    assert curation.is_settled(second)
    assert curation.is_settled(tmp_path / "b"), "a listing without captions"


@pytest.mark.odd_input(
    "Moved and changed data",
    "A file that a manifest lists is overwritten",
    "The next run reads it, as its size or time of modification differs from the stored one.",
)
def test_changed_files_of_a_manifest_are_noticed(curation: LocalCuration, tmp_path: Path) -> None:
    place = write_manifest(tmp_path / "m.jsonl", red="a square", blue="another")
    curation.run(place)
    write_colour(tmp_path / "red.png", "green")
    assert changes(curation.tables, place) == [("red.png", "modified")]
    assert curation.run(place).new_assets == 1
    contents = {row["copies"][0]["uri"] if row["copies"] else None for row in curation.rows("assets")}
    assert contents == {None, str(tmp_path / "red.png"), str(tmp_path / "blue.png")}, "an address has one content"
    assert curation.is_settled(place)


@pytest.mark.parametrize("change", ["older", "newer", "other size"])
def test_a_file_was_modified_where_its_size_or_time_differs(
    curation: LocalCuration, tmp_path: Path, change: str
) -> None:
    path = write_colour(tmp_path / "media/red.png", "red")
    curation.run(tmp_path / "media")
    modified = path.stat().st_mtime
    if change == "other size":
        path.write_bytes(path.read_bytes() + b" ")
    os.utime(path, (modified, modified + {"older": -1e6, "newer": 1.0, "other size": 0.0}[change]))
    if change == "other size":
        os.utime(path, ns=(0, round(modified * 1e9)))
    assert [kind for _, kind in changes(curation.tables, tmp_path / "media")] == ["modified"]
    curation.run(tmp_path / "media")
    assert curation.is_settled(tmp_path / "media")


def test_another_listing_of_a_copy_hides_no_change(curation: LocalCuration, tmp_path: Path) -> None:
    """A copy that is read later says nothing about the first address."""
    write_colour(tmp_path / "a/red.png", "red")
    curation.run(tmp_path / "a")
    write_colour(tmp_path / "a/red.png", "green")
    write_colour(tmp_path / "b/red.png", "red")
    curation.run(tmp_path / "b")
    assert changes(curation.tables, tmp_path / "a") == [("red.png", "modified")]


def test_a_broken_file_is_read_again_when_another_one_takes_its_place(curation: LocalCuration, tmp_path: Path) -> None:
    broken = tmp_path / "media/red.png"
    write_colour(tmp_path / "media/blue.png", "blue")
    broken.write_bytes(b"nonsense")
    assert curation.run(tmp_path / "media").failures == {"ingest": 1}
    assert curation.is_settled(tmp_path / "media")
    good = write_colour(tmp_path / "good.png", "red")
    os.utime(good, (1e9, 1e9))
    good.replace(broken)
    assert curation.run(tmp_path / "media").new_assets == 1


def test_an_item_that_could_not_be_listed_is_read_when_it_can(curation: LocalCuration, tmp_path: Path) -> None:
    path = str(write_colour(tmp_path / "red.png", "red"))
    unlisted = [Source(uri=path, error="cannot read the caption beside it: Permission denied")]
    assert curation.run(unlisted).failures == {"ingest": 1}
    assert curation.is_settled(unlisted)
    assert curation.run(list_sources(path)).new_assets == 1


def test_sources_without_a_time_count_as_unchanged(curation: LocalCuration, tmp_path: Path) -> None:
    path = str(write_colour(tmp_path / "red.png", "red"))
    curation.run([Source(uri=path)])
    assert curation.is_settled([Source(uri=path)])
    curation.run(list_sources(path))
    assert curation.is_settled(list_sources(path))


def test_rows_of_version_0_1_are_compared_by_the_time_of_their_reading(curation: LocalCuration, tmp_path: Path) -> None:
    red = write_colour(tmp_path / "media/red.png", "red")
    write_colour(tmp_path / "media/blue.png", "blue")
    (tmp_path / "media/red.txt").write_text("red")
    curation.run(tmp_path / "media")
    older = [{"asset_id": row["asset_id"], "copies": None} for row in curation.rows("assets")]
    curation.tables.upsert("assets", older)
    assert curation.is_settled(tmp_path / "media")
    (tmp_path / "media/blue.txt").write_text("blue")
    os.utime(red, (4e9, 4e9))
    assert changes(curation.tables, tmp_path / "media") == [("blue.png", "caption"), ("red.png", "modified")]
    curation.run(tmp_path / "media")
    assert source_captions(curation) == {"red": ("red", ["red"]), "blue": ("blue", ["blue"])}
    assert curation.is_settled(tmp_path / "media")


def test_captions_of_a_change() -> None:
    sources = (Source(uri="a", caption="x"), Source(uri="a"), Source(uri="a", caption="y"))
    assert (Change(sources, "caption").uri, Change(sources, "caption").captions) == ("a", ["x", "y"])
