"""`MediaError`, the one error of media files, and the translation of the libraries' errors into it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import av
from PIL import Image

# What Pillow's readers, pyarrow's filesystems and the standard library raise on bad files.
READ_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class MediaError(ValueError):
    """A file that cannot be read as an image or a video; the message is one line."""


@contextmanager
def media_errors(uri: str) -> Iterator[None]:
    """Turns any error that the libraries raise on a bad file into a `MediaError` of one line."""
    name = uri.rstrip("/").rsplit("/", 1)[-1]  # addresses may carry credentials, which belong in no message
    try:
        yield
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from error
    # Before READ_ERRORS, which its base class OSError belongs to. `from None`, as the error repeats the address.
    except FileNotFoundError:
        raise MediaError(f"{name}: no such file") from None
    # `strerror` alone: the full message repeats the address.
    except av.FFmpegError as error:
        raise MediaError(f"{name}: no image or video that can be decoded ({error.strerror})") from error
    except READ_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(f"{name}: {reason}") from error
