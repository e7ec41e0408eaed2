"""Text as tables and files store it: repaired where it is not valid, and split at line ends alone."""

from __future__ import annotations

import re
from typing import Any

_INVALID = re.compile("[\0\ud800-\udfff]")


def repair(text: str) -> str:
    """Replaces what cannot be stored: a surrogate without its other half by U+FFFD, a NUL by a blank.

    Arrow, Parquet, databases and tokenizers take UTF-8, which has no surrogates. A text that was cut in the middle of
    an emoji ends with one, and Python decodes bytes that are not UTF-8 to surrogates in arguments and file names.
    Postgres, which may hold the runs of MLflow, takes no NUL.
    """
    if not _INVALID.search(text):
        return text
    # Through UTF-16, which joins two halves that are in the right order.
    return text.replace("\0", " ").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def repair_all(value: Any) -> Any:
    """Repairs every text in a value of dictionaries and lists, as JSON and rows of a table hold them."""
    if isinstance(value, str):
        return repair(value)
    if isinstance(value, dict):
        return {repair_all(key): repair_all(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [repair_all(content) for content in value]
    return value


def split_lines(text: str) -> list[str]:
    r"""The lines of a text, which end with \n or \r\n.

    `str.splitlines` also splits at form feeds, U+0085, U+2028 and others, which stand inside captions and prompts.
    """
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def one_line(error: BaseException) -> str:
    """The whole message of an error on one line; the class of the error where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank; the class of the error where it has no message."""
    return next((line.strip() for line in split_lines(str(error)) if line.strip()), type(error).__name__)
