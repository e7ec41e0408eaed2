"""`MediaError`, the one error of media files, and the translation of the libraries' errors into it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import av
from PIL import Image

from pipelines.store.errors import FatalError, TransientError, is_fatal, is_transient
from pipelines.store.texts import one_line

# What Pillow's readers, pyarrow's filesystems and the standard library raise on bad files.
READ_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class MediaError(ValueError):
    """A file that cannot be read as an image or a video; the message is one line."""


@contextmanager
def media_errors(uri: str) -> Iterator[None]:
    """Turns any error that the libraries raise on a bad file into a `MediaError` of one line.

    Raises:
        TransientError: the file could not be reached for now, which says nothing about it.
        FatalError: the store refuses access to all of its files.
    """
    name = uri.rstrip("/").rsplit("/", 1)[-1]  # addresses may carry credentials, which belong in no message
    try:
        yield
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from error
    # Before READ_ERRORS, which its base class OSError belongs to. Files are read by Python, whose errors FFmpeg passes
    # on, so that its own are about the content. `strerror` alone: the full message repeats the address.
    except av.FFmpegError as error:
        raise MediaError(f"{name}: no image or video that can be decoded ({error.strerror})") from error
    except READ_ERRORS as error:
        kind = TransientError if is_transient(error) else FatalError if is_fatal(error) else MediaError
        raise kind(f"{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """One line, without the address that some errors repeat, as it may carry credentials."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return one_line(error)
