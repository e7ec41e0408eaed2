"""Media are moved, deleted and overwritten after they were curated; a clip must never be read from other content."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.curation.locate import locate
from pipelines.media.errors import MediaError
from pipelines.media.sources import Source
from tests.local_curation import LocalCuration, write_colour


@pytest.fixture
def curation(tmp_path: Path) -> LocalCuration:
    """Two pictures in the folder `a`, curated."""
    curation = LocalCuration(tmp_path / "tables")
    write_colour(tmp_path / "a/red.png", "red")
    write_colour(tmp_path / "a/blue.png", "blue")
    assert curation.run(tmp_path / "a").new_examples == 2
    return curation


def captions(curation: LocalCuration) -> list[str]:
    return sorted(caption for _, caption in curation.examples().values())


@pytest.mark.odd_input(
    "Moved and changed data",
    "A media folder that was renamed and listed again, and then a new captioner",
    "The clips are read at their new addresses, which become the ones to read first.",
)
def test_a_renamed_folder_is_read_where_it_is_now(curation: LocalCuration, tmp_path: Path) -> None:
    (tmp_path / "a").rename(tmp_path / "b")
    summary = curation.run(tmp_path / "b")
    assert (summary.new_assets, summary.new_clips, summary.new_examples) == (0, 0, 0)
    for table in ("assets", "clips"):
        assert {Path(row["uri"]).parent.name for row in curation.rows(table)} == {"b"}
    assert all(row["other_uris"] == [str(tmp_path / "a" / Path(row["uri"]).name)] for row in curation.rows("assets"))
    summary = replace(curation, caption=2, score=2, latents=2).run()
    assert (summary.new_examples, summary.removed_examples, summary.failures.total()) == (2, 2, 0)
    assert captions(curation) == ["blue, captioner 2", "red, captioner 2"]


@pytest.mark.odd_input(
    "Moved and changed data",
    "One of two copies of a picture is deleted, and then the captioner changes",
    "The other copy is read, in every stage that reads media.",
)
def test_where_one_address_fails_another_one_is_tried(curation: LocalCuration, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("red.png", "blue.png"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    curation.run(tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        path.unlink()
    summary = replace(curation, caption=2, score=2, latents=2).run()
    assert (summary.new_examples, summary.failures.total()) == (2, 0)
    for table in ("assets", "clips"):
        assert {Path(row["uri"]).parent.name for row in curation.rows(table)} == {"a"}, "the address that worked"


@pytest.mark.odd_input(
    "Moved and changed data",
    "Media that are nowhere any more, and then a new captioner",
    "The examples stay as they are, and the summary counts them. `--remove-stale` removes them.",
)
def test_lost_media_do_not_empty_the_training_set(curation: LocalCuration, tmp_path: Path) -> None:
    before = curation.rows("examples")
    (tmp_path / "a/red.png").unlink()
    changed = replace(curation, caption=2)
    summary = changed.run()
    assert (summary.new_examples, summary.removed_examples, summary.stale_examples) == (1, 1, 1)
    assert captions(curation) == ["blue, captioner 2", "red, captioner 1"]
    stale = next(row for row in curation.rows("examples") if row["moments"] == b"red")
    assert stale in before, "a stale example keeps its fingerprints"
    (failure,) = curation.rows("failures")
    assert (failure["stage"], failure["uri"]) == ("locate", str(tmp_path / "a/red.png"))
    assert failure["message"] == "red.png: no such file; curate the folder where it is now"
    assert changed.is_settled(), "what cannot be done is not due again and again"
    assert changed.run().stale_examples == 1
    removing = replace(changed, remove_stale=True)
    assert not removing.is_settled()
    assert (removing.run().removed_examples, captions(curation)) == (1, ["blue, captioner 2"])


def test_lost_media_that_appear_elsewhere_are_encoded_then(curation: LocalCuration, tmp_path: Path) -> None:
    changed = replace(curation, caption=2)
    (tmp_path / "a").rename(tmp_path / "b")
    assert changed.run().stale_examples == 2
    summary = changed.run(tmp_path / "b")
    assert (summary.new_examples, summary.removed_examples, summary.stale_examples) == (2, 2, 0)


def test_a_new_text_encoder_needs_no_media(curation: LocalCuration, tmp_path: Path) -> None:
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    summary = replace(curation, captions="source").run()
    assert (summary.new_examples, summary.failures.total()) == (2, 0)


@pytest.mark.odd_input(
    "Moved and changed data",
    "Another picture is saved under the name of one that was curated, and then the captioner changes",
    "The clip of the old content keeps its example as it is, and gets nothing from the new picture.",
)
@pytest.mark.parametrize("is_older", [False, True])
def test_a_clip_gets_nothing_from_another_picture(curation: LocalCuration, tmp_path: Path, is_older: bool) -> None:
    path = write_colour(tmp_path / "a/red.png", "green")
    if is_older:  # as after `mv` or `cp -p` of an older file
        os.utime(path, (1e9, 1e9))
    summary = curation.run(tmp_path / "a")
    assert (summary.new_assets, summary.unchanged_sources, summary.new_examples) == (1, 1, 1)
    changed = replace(curation, caption=2, score=2)
    summary = changed.run()
    assert (summary.stale_examples, summary.failures) == (1, {"locate": 2})  # by scores, and by examples
    pairs = sorted(curation.examples().values())
    assert pairs == [("blue", "blue, captioner 2"), ("green", "green, captioner 2"), ("red", "red, captioner 1")]
    assert all("has another content now" in row["message"] for row in curation.rows("failures"))


def test_a_file_that_changes_without_a_listing_is_noticed(curation: LocalCuration, tmp_path: Path) -> None:
    size = (tmp_path / "a/red.png").stat().st_size
    write_colour(tmp_path / "a/red.png", "green")
    assert (tmp_path / "a/red.png").stat().st_size == size, "only the time and the content tell"
    assert replace(curation, caption=2).run().stale_examples == 1
    assert captions(curation) == ["blue, captioner 2", "red, captioner 1"]


def test_a_touched_file_is_the_same_content(curation: LocalCuration, tmp_path: Path) -> None:
    os.utime(tmp_path / "a/red.png", (2e9, 2e9))
    summary = replace(curation, caption=2).run()
    assert (summary.new_examples, summary.failures.total()) == (2, 0)


def test_content_that_returns_to_its_address_is_read_again(curation: LocalCuration, tmp_path: Path) -> None:
    path = tmp_path / "a/red.png"
    content, modified = path.read_bytes(), path.stat().st_mtime_ns
    write_colour(path, "green")
    curation.run(tmp_path / "a")
    path.write_bytes(content)
    os.utime(path, ns=(modified, modified))
    curation.run(tmp_path / "a")
    replace(curation, caption=2).run()
    assert captions(curation) == ["blue, captioner 2", "green, captioner 1", "red, captioner 2"]


def test_an_object_store_without_times_is_trusted_to_its_reading(tmp_path: Path) -> None:
    """A manifest of an object store gives no times: what is newer than its reading is hashed."""
    curation, path = LocalCuration(tmp_path / "tables"), write_colour(tmp_path / "red.png", "red")
    curation.run([Source(uri=str(path))])
    assert curation.rows("assets")[0]["copies"][0]["modified"] is None
    assert replace(curation, caption=2).run().new_examples == 1
    os.utime(write_colour(path, "green"), (4e9, 4e9))
    assert replace(curation, caption=3).run().stale_examples == 1


def test_assets_of_version_0_1_are_located(tmp_path: Path) -> None:
    path = str(write_colour(tmp_path / "red.png", "red"))
    clip = {"uri": str(tmp_path / "gone.png"), "asset_id": "0" * 32, "bytes": None, "copies": []}
    with pytest.raises(MediaError, match=r"^gone\.png: the file has another content now, and no other file has"):
        locate(clip)
    curation = LocalCuration(tmp_path / "tables")
    curation.run(tmp_path / "red.png")
    (asset,) = curation.rows("assets")
    older = {"asset_id": asset["asset_id"], "uri": str(tmp_path / "gone.png"), "other_uris": [path], "copies": None}
    curation.tables.upsert("assets", [older])
    assert replace(curation, caption=2).run().new_examples == 1
