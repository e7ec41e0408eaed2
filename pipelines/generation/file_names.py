"""File names of samples: no two samples share a file, and the file system takes every name.

Official scorers read prompts from the names of files, so names follow from prompts and cannot be chosen freely.
"""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pipelines.generation.requests import SampleRequest
from pipelines.store.texts import repair

MAX_BYTES = 255
"""Length of a file name that common file systems take, in bytes of UTF-8."""
_PLAIN = re.compile(r"[\w /,.;!'()&+-]{1,140}", re.ASCII)
"""Paths that every file system takes; encrypted ones end at 143 bytes."""


def safe_name(prompt: str, ending: str = "_000000.png") -> str:
    """A prompt as the beginning of a file name: without slashes, which would make folders, and cut to leave room.

    Args:
        prompt: prompt.
        ending: what is going to follow, such as `-0.mp4`.
    """
    room = MAX_BYTES - len(ending.encode())
    # Errors are ignored, as the cut may be within a character.
    return prompt.replace("/", " ").encode()[:room].decode(errors="ignore")


def check_paths(requests: Sequence[SampleRequest]) -> None:
    """Checks the paths of samples before any is generated.

    Raises:
        ValueError: two samples share a path, or a path cannot be one below the output folder.
    """
    by_path: dict[str, SampleRequest] = {}
    for request in requests:
        path = PurePosixPath(request.path)
        if path.is_absolute() or ".." in path.parts or not path.suffix or repair(request.path) != request.path:
            raise ValueError(f"{request.path!a} is no path for a sample; rename its entry in the prompt files")
        if any(len(name.encode()) > MAX_BYTES for name in path.parts):
            raise ValueError(f"{request.path} is longer than {MAX_BYTES} bytes; shorten it in the prompt files")
        other = by_path.setdefault(request.path, request)
        if other is not request:
            prompts = " and ".join(repr(prompt[:200]) for prompt in (other.prompt, request.prompt))
            raise ValueError(f"two samples would share the file {request.path}: {prompts}; reword one of the prompts")


def check_file_system(folder: Path, paths: Sequence[str]) -> None:
    """Checks that a file system takes unusual names, and tells those apart that differ in case or accents alone.

    Empty files of these names are created for a moment, beside the first folder above that exists: what a file system
    takes depends on how it was made and mounted.

    Args:
        folder: output folder, which need not exist.
        paths: paths below it, without duplicates.

    Raises:
        ValueError: the file system refuses a name, or takes two names for one file.
    """
    folded = Counter(map(_folded, paths))
    doubtful = [path for path in paths if folded[_folded(path)] > 1 or not _PLAIN.fullmatch(path)]
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    if not doubtful:
        return
    try:
        trial_folder = tempfile.TemporaryDirectory(dir=existing, prefix=".nova-names-")
    except OSError as error:
        raise ValueError(f"{existing} cannot be written ({error.strerror}); give another --output") from error
    with trial_folder as trial:
        for path in doubtful:
            try:
                _create(Path(trial) / path)
            except FileExistsError as error:
                twin = next(other for other in doubtful if _folded(other) == _folded(path))
                raise ValueError(
                    f"the file system of {folder} takes {twin!r} and {path!r} for one file; give an --output elsewhere"
                ) from error
            except OSError as error:
                raise ValueError(
                    f"the file system of {folder} takes no file named {path!r} ({error.strerror}); give an --output "
                    "elsewhere"
                ) from error


def _folded(path: str) -> str:
    """The same for paths that some file system takes for one: regardless of case, and of how accents are written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(exist_ok=False)
