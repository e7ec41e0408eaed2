"""Names of models: what a recipe may write, where its files are, and what fingerprints say of it.

A model is named in one of three ways:

- with a registered prefix, such as `zoo/NAME`: whoever carries models adds a `ModelSource`, which finds their folders;
- a local folder or file;
- a hub id `OWNER/REPO`, with a folder inside it where the repository holds several models, and with a revision where
  it must not move: `OWNER/REPO/vae@0123abc`.

`folder` gives the local folder of any of them, fetching what is not there yet, so that the libraries' loaders only ever
see local folders. Nothing but configurations, tokenizers and safetensors is fetched: no pickles, no code.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
UNHASHED = {".md", ".py", ".lock", ".gitattributes"}
REMEMBERED_BYTES = 1 << 26
"""Digests of files from this size on are remembered between runs."""

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<inside>[\w./-]+?))?(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Models that are named with a prefix of their own.

    `find` is pickled by reference and called in Ray's workers too, so it is a function at the top of a module.
    """

    prefix: str
    """Such as zoo/."""
    find: Callable[[str], Path]
    """Folder of the model with a name (without the prefix); raises ValueError where there is none."""
    note: str = ""
    """What a reader of results has to know where such models made them."""


_SOURCES: dict[str, ModelSource] = {}


def register(*sources: ModelSource) -> None:
    """Adds sources of models for this process; `run_stages` takes them along to Ray's workers."""
    _SOURCES.update({source.prefix: source for source in sources})


def registered() -> tuple[ModelSource, ...]:
    """All sources that were registered."""
    return tuple(_SOURCES.values())


def source_of(model_id: str) -> ModelSource | None:
    """The registered source whose prefix a name has; None for folders and hub ids."""
    return next((source for source in registered() if model_id.startswith(source.prefix)), None)


@dataclass(frozen=True)
class HubId:
    """A hub id, taken apart."""

    repo: str
    inside: str = ""
    """Folder inside the repository."""
    revision: str = "main"

    @classmethod
    def parse(cls, model_id: str) -> HubId:
        """Reads 'OWNER/REPO[/FOLDER][@REVISION]'.

        Raises:
            ValueError: it is no hub id.
        """
        match = _HUB_ID.fullmatch(model_id)
        if match is None:
            raise ValueError(f"model {model_id!r}: no such folder, and no hub id (OWNER/REPO)")
        return cls(match["repo"], match["inside"] or "", match["revision"] or "main")


def cache_folder() -> Path:
    """Where the project keeps what it can build again: NOVA_CACHE, or ~/.cache/nova."""
    return Path(os.environ.get("NOVA_CACHE") or "~/.cache/nova").expanduser().absolute()


def resolve(model_id: str) -> str:
    """The local folder or file of a model that is here, else the hub id unchanged.

    A registered prefix comes first: a folder of that name in the working directory is meant only as ./zoo/NAME.

    Raises:
        ValueError: neither; names what can be written.
    """
    source = source_of(model_id)
    if source is not None:
        return str(source.find(model_id.removeprefix(source.prefix)))
    local = Path(model_id).expanduser()
    if model_id and local.exists():
        return str(local.absolute())
    if model_id.startswith(("/", ".", "~")) or not model_id:
        raise ValueError(f"model {model_id!r}: no such folder")
    HubId.parse(model_id)
    return model_id


def folder(model_id: str) -> Path:
    """The local folder (or file) of a model; what is not here is fetched from the hub into its own cache.

    Raises:
        ValueError: there is none, or it cannot be fetched; names the remedy.
    """
    resolved = resolve(model_id)
    if Path(resolved).exists():
        return Path(resolved)
    return _fetch(resolved)


def _fetch(model_id: str) -> Path:
    from huggingface_hub import snapshot_download

    hub = HubId.parse(model_id)
    prefix = f"{hub.inside}/" if hub.inside else ""
    try:
        root = snapshot_download(
            hub.repo, revision=hub.revision, allow_patterns=[prefix + pattern for pattern in FETCHED]
        )
    except Exception as error:  # the hub's client raises its own errors, requests' and httpx's, and OSError
        raise ValueError(
            f"model {model_id!r} cannot be fetched from the hub ({type(error).__name__}): check the name and the "
            "network (and that HF_HUB_OFFLINE is not set), or give a local folder"
        ) from error
    found = Path(root) / hub.inside
    if not found.is_dir() or not any(found.iterdir()):
        raise ValueError(f"model {model_id!r}: {hub.repo} has no folder {hub.inside!r} with configuration and weights")
    return found


@contextmanager
def loading(model_id: str) -> Iterator[None]:
    """Turns what a library raises while it loads a model into a `ValueError` of one line."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"model {model_id!r} holds more than tensors, which could run code; convert it to safetensors"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"model {model_id!r} cannot be loaded: {reason[:300]}") from error


def quiet() -> None:
    """Stops transformers from drawing a bar for every file that it loads or saves."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def digest(model_id: str) -> str:
    """What fingerprints say of a model: a hash of its files where they are local, else `id@revision`.

    A hub id without a revision stands for `main`, whatever that is at the time: give one where it must not move.

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
    """Hash of names and contents of a folder's files, wherever it lies; hidden and descriptive files do not count."""
    files = (each.relative_to(path) for each in path.rglob("*") if each.is_file())
    counted = [each for each in files if each.suffix not in UNHASHED and not any(p.startswith(".") for p in each.parts)]
    whole = hashlib.sha256()
    for name in sorted(counted, key=Path.as_posix):
        whole.update(f"{name.as_posix()}\0{_file_digest(path / name)}\0".encode())
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    status = path.stat()
    return _remembered(str(path.resolve()), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _remembered(path: str, size: int, modified: int) -> str:
    """Large weights are read once, not at every start: as make does, trust size and time of modification."""
    if size < REMEMBERED_BYTES:
        return _sha256(path)
    note = cache_folder() / "digests" / hashlib.sha256(f"{path}\0{size}\0{modified}".encode()).hexdigest()[:32]
    if note.exists():
        return note.read_text()
    found = _sha256(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_name(f"{note.name}.{os.getpid()}")
    partial.write_text(found)
    partial.replace(note)
    return found


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cores() -> int:
    """Logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> str:
    """'cuda' where there is a GPU that this process may use, else 'cpu'."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype(precision: str = "auto") -> torch.dtype:
    """The torch dtype of a precision; `auto` is bf16 on a GPU and fp32 on a CPU.

    Raises:
        ValueError: unknown precision.
    """
    import torch

    check_precision(precision)
    if precision == "auto":
        precision = "bf16" if device() == "cuda" else "fp32"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def check_precision(precision: str) -> None:
    """Raises ValueError where a config names an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: write one of {', '.join(PRECISIONS)}")
