"""Names of models: how a recipe writes them, where their files are, and how fingerprints identify them.

A model is named in one of three ways:

- a name with a registered prefix, such as `zoo/NAME`: a package with its own models registers a `ModelSource`;
- a local folder or file;
- a hub id `OWNER/REPO`, with a folder where the repository holds several models and a revision where it must not
  change: `OWNER/REPO/vae@0123abc`.

`folder` returns the local folder of any of them, and downloads missing files first, so that the libraries' loaders only
ever read local folders. Only configurations, tokenizers and safetensors are downloaded: no pickles, no code.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nova_model.checkpoints.hub import SAFE_FILES, download
from pipelines.store.files import write_text
from pipelines.store.texts import one_line

UNHASHED = {".md", ".py", ".lock", ".gitattributes"}
"""Suffixes of files in model folders that do not change a model's results: cards, code, and leftovers of downloads."""
CACHED_DIGEST_BYTES = 1 << 26
"""Digests of files from this size on are cached on disk between runs."""

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<inside>[\w./-]+?))?(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A collection of models whose names have a common prefix.

    `find` is pickled by reference and called in Ray's workers too, so it must be a function at the top of a module.
    """

    prefix: str
    """Prefix of the names, such as `zoo/`."""
    find: Callable[[str], Path]
    """Returns the folder of a model by its name without the prefix; raises a ValueError if there is no such model."""
    note: str = ""
    """Remark for readers of results that were computed with such models."""


# Filled at import time by the packages that have models of their own; `core` knows none of them.
_SOURCES: dict[str, ModelSource] = {}


def register(*sources: ModelSource) -> None:
    """Adds model sources to this process; `run_stages` registers them in Ray's workers, too."""
    _SOURCES.update({source.prefix: source for source in sources})


def registered() -> tuple[ModelSource, ...]:
    """All registered sources."""
    return tuple(_SOURCES.values())


def source_of(model_id: str) -> ModelSource | None:
    """The registered source whose prefix the name has; None for folders and hub ids."""
    return next((source for source in registered() if model_id.startswith(source.prefix)), None)


@dataclass(frozen=True)
class HubId:
    """A hub id split into its components."""

    repo: str
    inside: str = ""
    """Folder inside the repository."""
    revision: str = "main"

    @classmethod
    def parse(cls, model_id: str) -> HubId:
        """Reads 'OWNER/REPO[/FOLDER][@REVISION]'.

        Raises:
            ValueError: the text is not a hub id.
        """
        match = _HUB_ID.fullmatch(model_id)
        if match is None:
            raise ValueError(f"model {model_id!r}: no such folder, and not a hub id; write a folder or OWNER/REPO")
        return cls(match["repo"], match["inside"] or "", match["revision"] or "main")


def cache_folder() -> Path:
    """Folder of everything that can be computed again: NOVA_CACHE, by default ~/.cache/nova.

    Where there is no home folder, or one that cannot be written, as in many containers, it is a temporary folder.

    Raises:
        ValueError: NOVA_CACHE cannot be written, or the temporary folder belongs to another user.
    """
    chosen = os.environ.get("NOVA_CACHE")
    path = Path(os.path.expanduser(chosen or "~/.cache/nova")).absolute()
    if _can_be_made(path):
        return path
    if chosen:
        raise ValueError(f"NOVA_CACHE={chosen} cannot be written; set it to another folder")
    fallback = Path(tempfile.gettempdir()) / f"nova-cache-{os.getuid()}"
    fallback.mkdir(mode=0o700, exist_ok=True)
    if fallback.stat().st_uid != os.getuid():  # anyone may create folders here, and put models of their own into them
        raise ValueError(
            f"{path} cannot be written, and {fallback} belongs to another user; set NOVA_CACHE to a folder"
        )
    return fallback


@functools.lru_cache(maxsize=8)
def _can_be_made(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def resolve(model_id: str) -> str:
    """Returns the path of a model that is on this machine, or the hub id unchanged.

    A registered prefix has precedence: a folder `zoo/NAME` in the working directory is written as `./zoo/NAME`.

    Raises:
        ValueError: the name is neither an existing path nor a hub id.
    """
    source = source_of(model_id)
    if source is not None:
        return str(source.find(model_id.removeprefix(source.prefix)))
    local = Path(model_id).expanduser()
    if model_id and local.exists():
        return str(local.absolute())
    # Clearly a path: without this check, a misspelt folder would be looked up on the hub.
    if model_id.startswith(("/", ".", "~")) or not model_id:
        raise ValueError(f"model {model_id!r}: no such folder")
    HubId.parse(model_id)
    return model_id


def folder(model_id: str) -> Path:
    """Returns the local folder (or file) of a model; missing files are downloaded into the hub's own cache.

    Raises:
        ValueError: there is no such model, or it cannot be downloaded.
    """
    resolved = resolve(model_id)
    if Path(resolved).exists():
        return Path(resolved)
    return _download(resolved)


def _download(model_id: str) -> Path:
    hub = HubId.parse(model_id)
    prefix = f"{hub.inside}/" if hub.inside else ""
    # Only the files of this folder: repositories hold several models and their pickled twins.
    root = download(hub.repo, [prefix + pattern for pattern in SAFE_FILES], revision=hub.revision)
    downloaded = root / hub.inside
    if not downloaded.is_dir() or not any(downloaded.iterdir()):
        raise ValueError(f"model {model_id!r}: {hub.repo} has no folder {hub.inside!r} with configuration and weights")
    return downloaded


@contextmanager
def loading(model_id: str) -> Iterator[None]:
    """Turns any error that a library raises while it loads a model into a `ValueError` of one line."""
    try:
        yield
    # torch raises it, with a page of advice on disabling the check, where weights_only refuses a file.
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"model {model_id!r} holds more than tensors, which could run code; convert it to safetensors"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        # Libraries report a missing file in ten lines; failures are shown as table cells.
        reason = one_line(error)
        raise ValueError(f"model {model_id!r} cannot be loaded: {reason[:300]}") from error


def quiet() -> None:
    """Stops transformers from drawing a progress bar for every file that it loads or saves."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def digest(model_id: str) -> str:
    """Identifies a model in fingerprints: by a hash of its files if they are local, else by `id@revision`.

    A hub id without a revision means `main`, which may change: give a revision where the model must not change.

    Raises:
        ValueError: there is no such model.
    """
    resolved = resolve(model_id)
    path = Path(resolved)
    if not path.exists():
        hub = HubId.parse(resolved)
        return f"{hub.repo}{'/' if hub.inside else ''}{hub.inside}@{hub.revision}"
    if path.is_file():
        return _file_digest(path)
    return _folder_digest(path)


def _folder_digest(path: Path) -> str:
    """Hash of the names and contents of a folder's files; hidden and descriptive files do not count."""
    files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    counted = [file for file in files if file.suffix not in UNHASHED and not _is_hidden(file)]
    hasher = hashlib.sha256()
    for name in sorted(counted, key=Path.as_posix):
        # Names count too, as they say what a file is for; the separators keep (name, content) pairs apart.
        hasher.update(f"{name.as_posix()}\0{_file_digest(path / name)}\0".encode())
    return hasher.hexdigest()


def _is_hidden(path: Path) -> bool:
    return any(name.startswith(".") for name in path.parts)


def _file_digest(path: Path) -> str:
    status = path.stat()
    return _cached_digest(str(path.resolve()), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _cached_digest(path: str, size: int, modified: int) -> str:
    """Reads large weights once, not at every start: like make, it trusts size and modification time."""
    if size < CACHED_DIGEST_BYTES:
        return _sha256(path)
    # In a folder of notes and no single file, which several workers would have to lock.
    note = cache_folder() / "digests" / hashlib.sha256(f"{path}\0{size}\0{modified}".encode()).hexdigest()[:32]
    if not note.exists():
        write_text(note, _sha256(path))
    return note.read_text()


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
