"""Addresses and captions of an asset: what a listing adds or corrects, and what stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pipelines.core.stage import Row
from pipelines.curation.copies import add_readings, address_columns, copies_of, time_of, updated_captions, with_captions

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
LATER = FIRST + timedelta(days=1)


def reading(uri: str, caption: str | None = None) -> Row:
    return {"uri": uri, "modified": None, "source_caption": caption}


def captions(copies: list[Row]) -> dict[str, list[str]]:
    return {copy["uri"]: copy["captions"] for copy in copies}


def test_the_address_that_was_read_last_comes_first() -> None:
    copies = add_readings([], [reading("a"), reading("c"), reading("b")], FIRST)
    assert [copy["uri"] for copy in copies] == ["a", "b", "c"]
    copies = add_readings(copies, [reading("e"), reading("d"), reading("b")], LATER)
    assert [copy["uri"] for copy in copies] == ["b", "d", "e", "a", "c"]


def test_lines_of_one_run_add_captions_and_those_of_a_later_run_replace_them() -> None:
    copies = add_readings(add_readings([], [reading("a", "x")], FIRST), [reading("a", "y"), reading("a", "x")], FIRST)
    assert captions(copies) == {"a": ["x", "y"]}
    assert captions(add_readings(copies, [reading("a", "z")], LATER)) == {"a": ["z"]}
    assert captions(add_readings(copies, [reading("a")], LATER)) == {"a": ["x", "y"]}, "a listing without captions"


def test_a_corrected_caption_takes_the_place_of_the_old_one() -> None:
    before = add_readings([], [reading("a", "cot"), reading("b", "dog"), reading("c")], FIRST)
    stored = ["cot", "dog"]
    assert updated_captions(stored, before, with_captions(before, {"a": ["cat"]})) == ["cat", "dog"]
    assert updated_captions(stored, before, with_captions(before, {"b": ["hound"]})) == ["cot", "hound"]
    assert updated_captions(stored, before, with_captions(before, {"c": ["pet"]})) == ["cot", "dog", "pet"]
    assert updated_captions(stored, before, with_captions(before, {"a": ["dog"]})) == ["dog"]
    assert updated_captions(stored, before, with_captions(before, {"a": ["cat", "cot"]})) == ["cat", "cot", "dog"]
    assert updated_captions(stored, before, with_captions(before, {"x": ["unknown"]})) == stored


def test_a_caption_that_another_address_has_too_stays() -> None:
    before = add_readings([], [reading("a", "cot"), reading("b", "cot")], FIRST)
    assert updated_captions(["cot"], before, with_captions(before, {"a": ["cat"]})) == ["cat", "cot"]


def test_rows_of_version_0_1_are_read_and_lose_no_caption() -> None:
    asset = {
        "asset_id": "1", "uri": "a", "other_uris": ["b"], "source_captions": ["cot", "dog"], "last_seen": FIRST,
        "copies": None,
    }  # fmt: skip
    assert captions(copies_of(asset)) == {"a": ["cot"], "b": []}
    columns = address_columns(asset, with_captions(copies_of(asset), {"a": ["cat"]}), FIRST)
    assert columns["source_captions"] == ["cat", "dog"]
    assert (columns["uri"], columns["other_uris"]) == ("a", ["b"])


def test_an_asset_that_is_nowhere_says_where_it_was() -> None:
    asset = {"asset_id": "1", "uri": "a", "other_uris": [], "source_captions": ["cat"], "last_seen": FIRST}
    asset["copies"] = add_readings([], [reading("a", "cat")], FIRST)
    columns = address_columns(asset, [], FIRST)
    assert (columns["uri"], columns["other_uris"], columns["copies"]) == ("a", [], [])
    assert columns["source_captions"] == ["cat"]
    assert copies_of(columns) == []


def test_times_are_stored_to_the_microsecond() -> None:
    assert time_of(None) is None
    assert time_of(1764605106.1234567) == datetime(2025, 12, 1, 16, 5, 6, 123457, tzinfo=UTC)
    assert time_of(-1.5) == datetime(1969, 12, 31, 23, 59, 58, 500000, tzinfo=UTC), "zip archives hold such times"
