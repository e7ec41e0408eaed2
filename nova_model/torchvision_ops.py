"""Makes `import torchvision` work with a CPU build of torch; does nothing where its compiled library can be loaded.

torchvision's wheels are built for CUDA. With a CPU build of torch the compiled library does not load, its operators are
not registered, and `import torchvision` fails with "operator torchvision::nms does not exist", because it attaches
shape functions to two of them. Declaring those two schemas first makes everything in pure Python (RAFT, transforms)
work; calling `nms` itself would still fail, and nothing in this project calls it.

`install` adds a finder to the import system that does this when torchvision is first imported, so that torch is not
imported earlier than needed. The packages `nova_model`, `pipelines` and `jobs` call it on import, and every process,
Ray's workers included, imports one of them before it imports torchvision.
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
_declared: list[Any] = []  # keeps the Library alive: torch unregisters its schemas when it is garbage-collected


class _Finder:
    """Declares the operators just before torchvision is imported, then removes itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin is not None:
                declare_missing(Path(spec.origin).parent)
            return spec
        return None


def install() -> None:
    """Makes the first `import torchvision` of this process safe; further calls do nothing."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


def declare_missing(package: Path) -> bool:
    """Declares torchvision's operators unless its compiled library loads; returns whether it had to.

    Args:
        package: folder that torchvision is installed in.
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
    library_definitions = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        library_definitions.define(schema)
    _declared.append(library_definitions)
    return True
