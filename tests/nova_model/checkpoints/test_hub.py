"""Downloads from the hub: only data, one place for errors, and only the variant that is asked for."""

from __future__ import annotations

import fnmatch

import huggingface_hub
import pytest

from nova_model.checkpoints import hub
from tests.nova_model.models import one_line_error


def test_no_pattern_matches_code_or_pickles():
    unsafe = ["model.py", "pytorch_model.bin", "model.ckpt", "model.pt", "model.pth", "model.pkl", "model.msgpack"]
    assert not [name for name in unsafe for pattern in hub.SAFE_FILES if fnmatch.fnmatch(name, pattern)]


def test_any_error_of_the_client_is_one_line_with_the_remedy(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("several\nlines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with one_line_error(r"model 'a/b' cannot be fetched from the hub \(RuntimeError\): .*HF_HUB_OFFLINE"):
        hub.download("a/b")


def test_options_reach_the_client(monkeypatch, tmp_path):
    calls = []

    def download(repo, **options):
        calls.append((repo, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.download("a/b", ["vae/*.json"], revision="123") == tmp_path
    assert calls == [("a/b", {"allow_patterns": ["vae/*.json"], "revision": "123"})]


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_variants_that_are_not_asked_for_are_not_downloaded(monkeypatch, tmp_path, variant):
    names = [
        "vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.bf16-00001-of-00002.safetensors",
    ]  # fmt: skip

    def download(repo, **options):
        for name in huggingface_hub.utils.filter_repo_objects(names, **options):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.download_released("a/b", variant)
    downloaded = {f"vae/{path.name}" for path in (tmp_path / "vae").iterdir()}
    assert downloaded == set(names[:1] if variant is None else names[:2])
