"""Lets `import torchvision` work beside a CPU build of torch; acts only where its compiled library cannot be loaded.

torchvision's wheels are built for CUDA. Beside CPU torch the compiled library does not load, its operators are never
registered, and `import torchvision` fails with "operator torchvision::nms does not exist" because it attaches shape
functions to two of them. Declaring those two schemas first lets the pure-Python rest (RAFT, transforms) work; calling
`nms` itself would still fail, and nothing here calls it.

`install` puts a finder in front of the import system that does this when torchvision is first imported, so that torch
is not imported a moment earlier than needed. The packages `nova_model`, `pipelines` and `jobs` call it on import, and
every process, Ray's workers too, imports one of them before it imports torchvision.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[Any] = []  # a torch Library unregisters its schemas when it is collected


class _Finder:
    """Declares the operators just before torchvision is imported, then steps aside."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin is not None:
                declare_missing(Path(spec.origin).parent)
            return spec
        return None


def install() -> None:
    """Makes the first `import torchvision` of this process safe. Calling it again does nothing."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


def declare_missing(package: Path) -> bool:
    """Declares torchvision's operators unless its compiled library loads; says whether it had to.

    Args:
        package: the folder torchvision is installed in.
    """
    import torch

    libraries = [*package.glob("_C*.so"), *package.glob("_C*.pyd")]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        libraries = []
    if libraries and hasattr(torch.ops.torchvision, "nms"):
        return False
    declared = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        declared.define(schema)
    _declared.append(declared)
    return True
