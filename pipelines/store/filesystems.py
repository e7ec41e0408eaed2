"""Opens the filesystem behind a path or an object-store address; the only place that quotes and unquotes addresses.

A path is taken as it is: `%20`, `#` and `?` are characters of names. In an address (`file:///photos/a%20b.png`,
`s3://bucket/key`), `%` and two hexadecimal digits stand for a byte, and every other character for itself. Options of an
object store may follow at its end, as in `s3://bucket/photos?endpoint_override=HOST:9000&scheme=http`.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs
from pyarrow.fs import FileSystem, FileType

from pipelines.store.errors import patiently
from pipelines.store.texts import repair


class FileInfo(NamedTuple):
    """What a filesystem tells of a file or folder."""

    path: str
    """In the filesystem; bytes that are not UTF-8 are surrogates, as in Python's own listings."""
    type: FileType
    size: int | None
    modified: float | None
    """Seconds since 1970."""

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)


_ADDRESS = re.compile(r"[a-zA-Z][\w+.-]*://")
_LOCAL_ADDRESS = re.compile(r"file:(//(localhost)?)?(?=/)", re.IGNORECASE)
_OPTIONS = re.compile(r"\?\w+=[^&]*(&\w+=[^&]*)*$")


def local_path(uri: str | os.PathLike[str]) -> str | None:
    """The absolute path of a local path or of a file:// address; None for addresses of object stores."""
    text = os.fspath(uri)
    prefix = _LOCAL_ADDRESS.match(text)
    if prefix is not None:
        return _unquote(text[prefix.end() :])
    if _ADDRESS.match(text):
        return None
    # Not normalised: `..` after a link leads elsewhere than the text says.
    return str(Path(os.path.expanduser(text)).absolute())


def split_options(uri: str) -> tuple[str, str]:
    """Splits an address into its place and the options of the store, which begin with `?` where there are any."""
    options = _OPTIONS.search(uri) if _ADDRESS.match(uri) and local_path(uri) is None else None
    return (uri, "") if options is None else (uri[: options.start()], options[0])


def open_filesystem(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """Returns the pyarrow filesystem and the path in it of a local path or an object-store address.

    Where file names may not be UTF-8, `encode_path` makes the path one that the filesystem takes.

    Raises:
        ValueError: pyarrow does not support this kind of address.
    """
    local = local_path(uri)
    if local is not None:
        # Absolute, as addresses are stored in tables and read by workers in other working directories.
        return pa.fs.LocalFileSystem(), os.path.abspath(local)
    place, options = split_options(uri)
    scheme, _, below = place.partition("://")
    host, _, path = below.partition("/")
    filesystem, root = _connect(f"{scheme}://{host}/{options}")
    return filesystem, posixpath.join(root, _unquote(path).lstrip("/"))


def _unquote(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def file_info(filesystem: FileSystem, path: str) -> FileInfo:
    """The file or folder at a path; its type is `NotFound` where there is none."""
    return _file_info(path, patiently(lambda: filesystem.get_file_info(encode_path(path))))


def list_folder(filesystem: FileSystem, folder: str) -> list[FileInfo]:
    """The files and folders directly below a folder, in any order.

    Raises:
        OSError: the folder cannot be read, also after some attempts where the trouble may pass.
    """
    try:
        infos = patiently(lambda: filesystem.get_file_info(pa.fs.FileSelector(folder)))
        return [_file_info(info.path, info) for info in infos]
    except UnicodeError:
        if not isinstance(filesystem, pa.fs.LocalFileSystem):
            raise
    # pyarrow refuses the whole folder for one name that is not UTF-8, but takes the paths of its files as bytes.
    base = encode_path(folder)
    paths = [os.path.join(base, name) for name in os.listdir(base)]
    infos = zip(paths, filesystem.get_file_info(paths), strict=True)
    return [_file_info(path.decode("utf-8", "surrogateescape"), info) for path, info in infos]


def _file_info(path: str, info: pa.fs.FileInfo) -> FileInfo:
    # With the caller's path: that of `info` raises an error where it is not UTF-8.
    return FileInfo(path, info.type, info.size, None if info.mtime_ns is None else info.mtime_ns / 1e9)


def encode_path(path: str) -> bytes:
    """A path as pyarrow's filesystems take it if a name in it is not UTF-8; Python holds such bytes as surrogates.

    Raises:
        ValueError: it contains a surrogate that stands for no byte.
    """
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"{path!a} can name no file: half a character at position {error.start}") from error


def storable_address(uri: str) -> str:
    """An address as tables hold it: bytes that are not UTF-8 are quoted, as in file:///photos/caf%E9.png.

    Raises:
        ValueError: it contains a surrogate that stands for no byte.
    """
    if repair(uri) == uri:
        return uri
    if "://" not in uri:
        return f"file://{quote(encode_path(uri))}"
    encode_path(uri)  # raises the error
    return re.sub("[\0\udc80-\udcff]", lambda match: f"%{ord(match[0]) & 0xFF:02X}", uri)


@functools.lru_cache(maxsize=32)
def _connect(root: str) -> tuple[pa.fs.FileSystem, str]:
    """Connects to a bucket or host once per process: that can take longer than reading a file."""
    try:
        return pa.fs.FileSystem.from_uri(root)
    except (ValueError, NotImplementedError):  # their messages repeat the address, which may hold credentials
        scheme = root.partition("://")[0]
        raise ValueError(
            f"no {scheme}:// address that can be read; use a path, file://, s3://, gs:// or hdfs://"
        ) from None
