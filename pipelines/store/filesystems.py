"""Opens the filesystem behind a path or an object-store address; the only place that does."""

from __future__ import annotations

import functools
import os
import posixpath
from urllib.parse import unquote, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs


def open_filesystem(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """Returns the pyarrow filesystem and the path in it of a local path or an object-store address.

    Raises:
        ValueError: pyarrow does not support this kind of address.
    """
    if "://" not in uri:
        # Absolute, as addresses are stored in tables and read by workers in other working directories.
        return pa.fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    address = urlsplit(uri)
    filesystem, root = _connect(urlunsplit((address.scheme, address.netloc, "/", address.query, "")))
    # A URI quotes blanks and the like; paths of pyarrow's filesystems do not.
    return filesystem, posixpath.join(root, unquote(address.path).lstrip("/"))


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
