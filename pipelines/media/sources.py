"""Lists media to curate: a folder, a glob, one file, an object-store address, or a manifest.

A listing is lazy and has a stable order; it holds one folder or a few manifest rows in memory at a time.

- Folders and globs list the files with a media extension. Hidden files and folders are skipped, and other files are
  counted in `Listing.ignored`. A glob that ends in an extension (`*.dat`) lists every file that it matches.
- A caption may lie beside a file: `cat.jpg` and `cat.txt`.
- A manifest (.jsonl, .csv, .tsv, .parquet) has a column `uri`, relative to the manifest's folder or absolute, and
  optionally a column `caption`; other columns are ignored. Captions of large collections belong in a manifest, because
  every caption file is opened on the driver.
- Sizes and times of modification tell what has changed since. A manifest gives them for files on disk, and not for
  addresses of an object store: list the folder there, or give changed objects new names.
- An item that cannot be listed (a broken manifest line, a subfolder without permission) becomes a source with an
  `error`, which is recorded in the failures table.
- A file whose name is not UTF-8 has an address in which its bytes are quoted (`file:///photos/caf%E9.png`), because
  tables and logs hold UTF-8 alone.

Addresses must not contain passwords, because they are stored with the assets.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.fs
from pyarrow.fs import FileSystem, FileType

from pipelines.media import manifests
from pipelines.media.captions import caption_text, decode
from pipelines.store.errors import TransientError, is_transient
from pipelines.store.filesystems import (
    FileInfo,
    encode_path,
    file_info,
    list_folder,
    open_filesystem,
    split_options,
    storable_address,
)
from pipelines.store.texts import one_line

IMAGES = frozenset("jpg jpeg jpe jfif png webp bmp gif tif tiff avif heic heif jp2 ppm pgm".split())
VIDEOS = frozenset("mp4 m4v mov mkv webm avi mpg mpeg ts mts m2ts flv wmv asf ogv 3gp 3g2".split())
CAPTION_BYTES = 1 << 16
"""At most this much of a caption file is read, in case a large text file lies beside an image."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One item to curate."""

    uri: str
    """Absolute path or address."""
    caption: str | None = None
    bytes: int | None = None
    """Size; None if unknown."""
    modified: float | None = None
    """Seconds since 1970; None if unknown, as for items of manifests in an object store."""
    error: str | None = None
    """Reason why the item cannot be read; None if it can."""


class Listing(Iterator[Source]):
    """The sources at one address; an iterator, for a single pass.

    Attributes:
        ignored: number of files skipped so far because of their extension.
    """

    def __init__(self, where: str, recursive: bool) -> None:
        self.ignored = 0
        self._place = _Place.at(where)
        self._sources = self._open(recursive)
        # Reads one source ahead, so that an empty or unreadable place is reported before anything is created.
        first = next(self, None)
        if first is None:
            raise ValueError(f"no images or videos in {where} ({self.ignored} other files); name another --input")
        self._sources = itertools.chain([first], self._sources)

    def __next__(self) -> Source:
        try:
            return next(self._sources)
        except (OSError, pa.ArrowException) as error:
            kind = TransientError if is_transient(error) else ValueError
            raise kind(f"cannot read {self._place.where}: {one_line(error)}") from error

    def _open(self, recursive: bool) -> Iterator[Source]:
        place = self._place
        info = file_info(place.filesystem, place.path)
        if info.type == FileType.Directory:
            return self._folder(place, recursive=recursive, pattern=None)
        if info.type == FileType.File:
            return _manifest(place) if _extension(info.path) in manifests.READERS else iter([_single_file(place, info)])
        above = place.above_pattern()
        if above is None or file_info(above[0].filesystem, above[0].path).type != FileType.Directory:
            raise ValueError(f"nothing at {place.where}; give a folder, a glob, a file, an address or a manifest")
        return self._folder(above[0], recursive=True, pattern=above[1])

    def _folder(self, place: _Place, *, recursive: bool, pattern: str | None) -> Iterator[Source]:
        depth = pattern.count("/") if pattern and "**" not in pattern else None if recursive else 0
        segments = (pattern or "**").split("/")
        has_extension = pattern is not None and re.fullmatch(r"\.\w+", posixpath.splitext(pattern)[1]) is not None
        for entry in _walk(place, place.path, depth, ()):
            if isinstance(entry, Source):
                yield entry
            elif not _matches(place.relative(entry.info.path).split("/"), segments):
                continue
            elif has_extension or _extension(entry.info.path) in IMAGES | VIDEOS:
                yield _file(place, entry.info, entry.caption_path)
            else:
                self.ignored += not entry.is_caption


def list_sources(where: str, *, recursive: bool = True) -> Listing:
    """Lists a folder, a glob, a file, an object-store address or a manifest.

    Args:
        where: path or address.
        recursive: whether folders are listed with their subfolders (globs go as deep as their pattern).

    Raises:
        ValueError: there is nothing to list, it cannot be read, a manifest has no column `uri`, or the address contains
            a password.
        TransientError: the storage is out of reach; it may also be raised during the iteration.
    """
    return Listing(where, recursive)


@dataclass(frozen=True)
class _Place:
    """Start of a listing: the address as the user wrote it, with its filesystem and path."""

    where: str
    filesystem: FileSystem
    path: str

    @staticmethod
    def at(where: str) -> _Place:
        if "://" in where and urlsplit(where).password:
            raise ValueError(
                "the address contains a password; set it in the environment, as the store's client expects"
            )
        try:
            filesystem, path = open_filesystem(where)
        except OSError as error:
            raise ValueError(f"cannot open {where}: {one_line(error)}") from error
        return _Place(where, filesystem, path.rstrip("/") or "/")

    def relative(self, path: str) -> str:
        return path[len(self.path) :].lstrip("/")

    def address(self, path: str) -> str:
        """The address of a path below (or at) this place."""
        if "://" not in self.where:
            return storable_address(path)
        base, options = split_options(self.where)
        below = self.relative(path)
        return storable_address(base.rstrip("/") + (f"/{quote(encode_path(below))}" if below else "") + options)

    def resolve(self, uri: str) -> str:
        """The absolute address of a `uri` in the manifest at this place.

        Raises:
            ValueError: no file can have this address.
        """
        if "://" in uri or uri.startswith(("/", "file:/")):
            return storable_address(uri)
        if "://" not in self.where:
            path = posixpath.join(posixpath.dirname(self.path), os.path.expanduser(uri))
            return storable_address(os.path.normpath(path))
        base, options = split_options(self.where)
        return storable_address(f"{posixpath.dirname(base)}/{quote(encode_path(uri.removeprefix('./')))}{options}")

    def above_pattern(self) -> tuple[_Place, str] | None:
        """The folder above the first wildcard and the pattern below it; None if there is no wildcard.

        The name of a folder that exists is no pattern, whatever it contains: `[raw]/*.png` are the files of `[raw]`.
        """
        address = "://" in self.where
        wildcard = r"[*\[]" if address else r"[*?\[]"
        segments = self.path.split("/")
        for index, segment in enumerate(segments):
            if re.search(wildcard, segment) and not self._is_folder("/".join(segments[: index + 1])):
                break
        else:
            return None
        folder, pattern = "/".join(segments[:index]) or "/", segments[index:]
        if not address:
            return _Place(folder, self.filesystem, folder), "/".join(pattern)
        base, options = split_options(self.where)
        above = base.rstrip("/").rsplit("/", len(pattern))[0]
        return _Place(above + options, self.filesystem, folder), "/".join(pattern)

    def _is_folder(self, path: str) -> bool:
        return file_info(self.filesystem, path).type == FileType.Directory


@dataclass(frozen=True)
class _Entry:
    """A file of a folder, and the caption file beside it."""

    info: FileInfo
    caption_path: str | None
    is_caption: bool


def _walk(place: _Place, folder: str, depth: int | None, above: tuple[str, ...]) -> Iterator[_Entry | Source]:
    """Yields the files below a folder in the order of their names.

    Args:
        place: start of the listing.
        folder: folder to list.
        depth: number of levels of subfolders to list; None for all.
        above: real paths of the folders above, to stop at circular links.
    """
    real = os.path.realpath(folder) if isinstance(place.filesystem, pa.fs.LocalFileSystem) else folder
    if real in above:
        return
    try:
        infos = list_folder(place.filesystem, folder)
    except OSError as error:
        if not above:
            raise
        yield Source(uri=place.address(folder), error=f"cannot list the folder: {one_line(error)}")
        return
    # Stores list in orders of their own; --limit should choose the same files everywhere.
    infos = sorted((info for info in infos if not info.name.startswith(".")), key=lambda info: info.name)
    files = [info for info in infos if info.type == FileType.File]
    captions = {_stem(info.path): info.path for info in files if _extension(info.path) == "txt"}
    media = {_stem(info.path) for info in files if _extension(info.path) in IMAGES | VIDEOS}
    for info in infos:
        if info.type == FileType.Directory:
            if depth is None or depth > 0:
                yield from _walk(place, info.path, None if depth is None else depth - 1, (*above, real))
        elif info.type != FileType.File:
            continue  # pipes and devices: opening one could block forever
        elif _extension(info.path) == "txt":
            yield _Entry(info, None, is_caption=_stem(info.path) in media)
        else:
            yield _Entry(info, captions.get(_stem(info.path)), is_caption=False)


def _single_file(place: _Place, info: FileInfo) -> Source:
    """A file whose folder is not listed, with the caption file beside it."""
    beside = _stem(info.path) + ".txt"
    has_caption = beside != info.path and file_info(place.filesystem, beside).type == FileType.File
    return _file(place, info, beside if has_caption else None)


def _file(place: _Place, info: FileInfo, caption_path: str | None) -> Source:
    uri = place.address(info.path)
    if caption_path is None:
        return Source(uri=uri, bytes=info.size, modified=info.modified)
    try:
        with place.filesystem.open_input_stream(encode_path(caption_path)) as file:
            caption = caption_text(decode(file.read(CAPTION_BYTES)))
    except (PermissionError, FileNotFoundError) as error:
        # Not the file without its caption: it would be trained that way, and nobody would know.
        return Source(uri=uri, error=f"cannot read the caption beside it: {one_line(error)}")
    return Source(uri=uri, caption=caption, bytes=info.size, modified=info.modified)


def _manifest(place: _Place) -> Iterator[Source]:
    for number, item in enumerate(manifests.read(place.filesystem, place.path), start=1):
        yield _manifest_source(place, number, item)


def _manifest_source(place: _Place, number: int, item: manifests.Item | str) -> Source:
    try:
        if not isinstance(item, str):
            uri = place.resolve(item.uri)
            size, modified = _local_facts(uri)
            return Source(uri=uri, caption=item.caption, bytes=size, modified=modified)
    except ValueError as error:
        item = str(error)
    return Source(uri=f"{place.address(place.path)}#{number}", error=f"item {number}: {item}")


def _local_facts(uri: str) -> tuple[int | None, float | None]:
    """Size and time of modification of a file on disk; nothing for an object or a missing file.

    A look at a local file takes microseconds. In an object store, it would be a request for every item of a manifest at
    every run, while the listing of a folder holds a thousand objects.
    """
    if "://" in uri and not uri.startswith("file://"):
        return None, None
    try:
        # Ten times as fast as pyarrow, and in the same numbers.
        facts = os.stat(encode_path(open_filesystem(uri)[1]))
    except (OSError, ValueError):  # ingest says what is wrong with it
        return None, None
    return (facts.st_size, facts.st_mtime_ns / 1e9) if stat.S_ISREG(facts.st_mode) else (None, None)


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the segments of a path match those of a glob: `*` stays within a folder, `**` matches any folders."""
    if not pattern:
        return not path
    if pattern == ["**"]:
        return True
    if pattern[0] == "**":
        return any(_matches(path[start:], pattern[1:]) for start in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _extension(path: str) -> str:
    return posixpath.splitext(path)[1][1:].lower()


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]
