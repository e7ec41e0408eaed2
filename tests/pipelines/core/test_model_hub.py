"""Naming models: where they are, what fingerprints say of them, what a wrong name gives."""

from __future__ import annotations

import os
import re

import pytest
import torch

from pipelines.core import model_hub as models


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_model(folder, weights=b"weights"):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_local_folder_is_itself_and_a_hub_id_stays_one(tmp_path):
    folder = make_model(tmp_path / "vae")
    assert models.resolve(str(folder)) == str(folder)
    assert models.folder(str(folder)) == folder
    assert models.resolve("microsoft/phi-2") == "microsoft/phi-2"
    assert models.resolve("microsoft/phi-2@main") == "microsoft/phi-2@main"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("microsoft/phi-2", models.HubId("microsoft/phi-2", "", "main")),
        ("BAAI/nova-d48w1024-sd512/vae", models.HubId("BAAI/nova-d48w1024-sd512", "vae", "main")),
        ("BAAI/nova-d48w1024-sd512/vae@0123abc", models.HubId("BAAI/nova-d48w1024-sd512", "vae", "0123abc")),
        ("a/b@refs/pr/1", models.HubId("a/b", "", "refs/pr/1")),
    ],
)
def test_hub_ids_have_folders_and_revisions(text, expected):
    assert models.HubId.parse(text) == expected


@pytest.mark.parametrize("wrong", ["", "./nothing/here", "/nothing/here", "phi", "a b/c", "fake/nothing"])
def test_a_wrong_name_is_one_line_that_names_it(wrong):
    with pytest.raises(ValueError, match=re.escape(f"model {wrong!r}")) as caught:
        models.resolve(wrong)
    assert "\n" not in str(caught.value)


def test_a_hub_id_that_cannot_be_fetched_names_the_remedy(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"'nobody/no-such-model'.*HF_HUB_OFFLINE.*local folder") as caught:
        models.folder("nobody/no-such-model")
    assert "\n" not in str(caught.value)


def test_fetching_takes_one_folder_of_a_revision_and_neither_pickles_nor_code(monkeypatch, tmp_path):
    import fnmatch

    import huggingface_hub

    asked = {}
    make_model(tmp_path / "vae")

    def download(repo, *, revision, allow_patterns):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert models.folder("a/b/vae@123") == tmp_path / "vae"
    assert (asked["repo"], asked["revision"]) == ("a/b", "123")

    def wanted(path):
        return any(fnmatch.fnmatch(path, pattern) for pattern in asked["patterns"])

    assert wanted("vae/config.json")
    assert wanted("vae/diffusion_pytorch_model.safetensors")
    assert not any(map(wanted, ("vae/pytorch_model.bin", "vae/model.py", "unet/config.json", "x.ckpt")))
    with pytest.raises(ValueError, match="has no folder 'text_encoder'"):
        models.folder("a/b/text_encoder@123")


def test_the_digest_follows_the_content_and_not_the_place(tmp_path):
    one = make_model(tmp_path / "one")
    two = make_model(tmp_path / "two")
    other = make_model(tmp_path / "other", b"other")
    assert models.digest(str(one)) == models.digest(str(two))
    assert models.digest(str(one)) != models.digest(str(other))
    (two / "README.md").write_text("words")
    (two / ".cache").mkdir()
    (two / ".cache" / "x.json").write_text("words")
    assert models.digest(str(one)) == models.digest(str(two))
    (two / "tokenizer.json").write_text("{}")
    assert models.digest(str(one)) != models.digest(str(two))
    assert models.digest(str(one / "model.safetensors")) == models.digest(str(two / "model.safetensors"))


def test_a_changed_file_changes_the_digest_in_the_same_process(tmp_path):
    folder = make_model(tmp_path / "one")
    before = models.digest(str(folder))
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert models.digest(str(folder)) != before


def test_large_files_are_read_once(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(models, "REMEMBERED_BYTES", 4)
    folder = make_model(tmp_path / "one")
    before = models.digest(str(folder))
    assert len(list((cache / "digests").iterdir())) == 1

    def refuse(path):
        assert path.endswith(".json"), f"{path} was read again"
        return sha256(path)

    sha256 = models._sha256
    models._remembered.cache_clear()  # as in another process
    monkeypatch.setattr(models, "_sha256", refuse)
    assert models.digest(str(folder)) == before


def test_the_digest_of_a_hub_id_is_id_and_revision():
    assert models.digest("microsoft/phi-2") == "microsoft/phi-2@main"
    assert models.digest("a/b/vae@123") == "a/b/vae@123"


def test_what_a_library_raises_becomes_one_line():
    with pytest.raises(ValueError, match=r"model 'x/y' cannot be loaded: two lines$"), models.loading("x/y"):
        raise OSError("two\n   lines")


def test_precisions():
    assert models.device() in ("cpu", "cuda")
    assert models.dtype("fp16") == torch.float16
    assert models.dtype("auto") == (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    with pytest.raises(ValueError, match=r"fp8.*auto, bf16, fp16, fp32"):
        models.dtype("fp8")
