"""A caption is text that says something; everything else is no caption."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from pipelines.media.captions import caption_text, decode


@pytest.mark.parametrize(
    "value",
    [
        *(None, float("nan"), 12, 0.5, True, ["a", "b"], {"a": "b"}, datetime.date(2020, 1, 1)),
        *("", " \n\u2028", "NaN", "nan", "null", "None", "<NA>", " NaN ", "\ud83d", "\0", b"", b"nan", b"\xff"),
    ],
)
def test_what_is_no_text_or_says_nothing_is_no_caption(value: Any) -> None:
    assert caption_text(value) is None


@pytest.mark.parametrize(
    ("value", "caption"),
    [
        ("12", "12"),
        (" a naan\n", "a naan"),
        (b"a cat", "a cat"),
        ("a\0b \ud83d", "a b \ufffd"),
        (b"caf\xe9", "caf\ufffd"),
    ],
)
def test_text_is_a_caption(value: Any, caption: str) -> None:
    assert caption_text(value) == caption


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_caption_files_of_windows_are_read(encoding: str) -> None:
    assert decode("Ein Käse".encode(encoding)) == "Ein Käse"
