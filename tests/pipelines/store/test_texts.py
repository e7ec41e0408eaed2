"""Any text can be stored, nothing else of it changes, and lines end where their writer ended them."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies

from pipelines.store.texts import first_line, repair, repair_all, split_lines

ANY_TEXT = strategies.text(strategies.characters(codec=None, exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("a cat \ud83d", "a cat \ufffd"),
        ("\ude00 alone, \udce9 from a name", "\ufffd alone, \ufffd from a name"),
        ("both halves: \ud83d\ude00", "both halves: \U0001f600"),
        ("padded\0\0", "padded  "),
        ("a whole \U0001f600, \u2028 and é", "a whole \U0001f600, \u2028 and é"),
    ],
)
def test_what_cannot_be_stored_is_replaced_alone(text: str, stored: str) -> None:
    assert repair(text) == stored


@hypothesis.settings(derandomize=True, deadline=None, max_examples=100)
@hypothesis.given(ANY_TEXT)
def test_every_text_becomes_utf8_and_stays_as_it_is_then(text: str) -> None:
    stored = repair(text)
    assert stored.encode().decode() == stored
    assert repair(stored) == stored
    assert "\0" not in stored


def test_texts_are_found_in_any_value_of_json() -> None:
    value = {"a\ud83d": [{"b": "c\0"}, 1.5, None, True, "d"]}
    assert repair_all(value) == {"a\ufffd": [{"b": "c "}, 1.5, None, True, "d"]}


def test_lines_end_at_line_ends_alone() -> None:
    inside = "one\u2028still\x85one\x0b\x0c\x1c\u2029"
    assert split_lines(f"{inside}\r\ntwo\n\nfour\n") == [inside, "two", "", "four"]
    assert split_lines("no end") == ["no end"]
    assert split_lines("") == []


def test_an_error_without_a_message_is_told_by_its_class() -> None:
    assert first_line(ValueError("\n first\nsecond")) == "first"
    assert first_line(AssertionError()) == "AssertionError"
