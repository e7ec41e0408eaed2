"""`import torchvision` works in a process that has imported one of our packages, whatever its wheel was built for."""

import subprocess
import sys

from nova_model import torchvision_ops

USED = """
import sys
import nova_model
assert "torch" not in sys.modules, "torch is imported a moment too early"
nova_model.install()
import torchvision
from torchvision.models.optical_flow import raft_small
from torchvision.transforms import v2
import torch
assert v2.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)
from nova_model.torchvision_ops import _Finder
assert not any(isinstance(finder, _Finder) for finder in sys.meta_path)
assert hasattr(torch.ops.torchvision, "nms")
"""


def test_torchvision_imports_and_torch_is_not_imported_earlier():
    done = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


BARE = """
import torch
from pathlib import Path
from nova_model.torchvision_ops import declare_missing
try:
    torch.ops.torchvision.nms
except AttributeError:
    pass
else:
    raise SystemExit("torchvision's operators were there already")
assert declare_missing(Path("nowhere")) is True
assert "iou_threshold" in str(torch.ops.torchvision.nms.default._schema)
assert "iou_threshold" in str(torch.ops.torchvision.qnms.default._schema)
"""


def test_operators_are_declared_where_the_compiled_library_is_missing():
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_installing_again_does_nothing(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for _ in range(2):
        torchvision_ops.install()
    assert sum(isinstance(finder, torchvision_ops._Finder) for finder in sys.meta_path) == 1
