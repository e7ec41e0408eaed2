"""Captions that come with media, in text files beside them and in manifests."""

from __future__ import annotations

import codecs

from pipelines.store.texts import repair

MISSING = frozenset(
    ("nan", "NaN", "-nan", "-NaN", "null", "NULL", "None", "none", "<NA>", "NA", "N/A", "n/a", "#N/A", "#NA")
)
"""Texts that stand for no caption: what programs write where a value is missing, as pandas reads it."""


def caption_text(value: object) -> str | None:
    """The caption in a field of a manifest or in a text file; None where there is none.

    What is no text, such as NaN, null, a number or a list, is no caption; nor is a text of blanks, a word for a missing
    value, or a text of which nothing can be stored. Bytes are text: some writers of Parquet do not mark their columns
    as such.
    """
    if isinstance(value, bytes):
        value = decode(value)
    if not isinstance(value, str):
        return None
    text = repair(value).strip()
    return text if text.strip("\ufffd") and text not in MISSING else None


def decode(raw: bytes) -> str:
    """The text of a file; bytes that are not in its encoding become U+FFFD."""
    encoding = encoding_of(raw)
    return raw.decode(encoding, errors="replace")


def encoding_of(head: bytes) -> str:
    """The encoding of a file from its first bytes: UTF-8, or UTF-16 with a byte order mark, as Windows writes it."""
    # utf-8-sig skips the mark that spreadsheets write; it would become part of the first word.
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
