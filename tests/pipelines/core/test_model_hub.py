"""Names of models: where their files are, how fingerprints identify them, and the errors for wrong names."""

from __future__ import annotations

import os
import re

import pytest

from pipelines.core import model_hub


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
    assert model_hub.resolve(str(folder)) == str(folder)
    assert model_hub.folder(str(folder)) == folder
    assert model_hub.resolve("microsoft/phi-2") == "microsoft/phi-2"
    assert model_hub.resolve("microsoft/phi-2@main") == "microsoft/phi-2@main"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("microsoft/phi-2", model_hub.HubId("microsoft/phi-2", "", "main")),
        ("BAAI/nova-d48w1024-sd512/vae", model_hub.HubId("BAAI/nova-d48w1024-sd512", "vae", "main")),
        ("BAAI/nova-d48w1024-sd512/vae@0123abc", model_hub.HubId("BAAI/nova-d48w1024-sd512", "vae", "0123abc")),
        ("a/b@refs/pr/1", model_hub.HubId("a/b", "", "refs/pr/1")),
    ],
)
def test_hub_ids_have_folders_and_revisions(text, expected):
    assert model_hub.HubId.parse(text) == expected


@pytest.mark.parametrize("wrong", ["", "./nothing/here", "/nothing/here", "phi", "a b/c", "fake/nothing"])
def test_a_wrong_name_is_one_line_that_names_it(wrong):
    with pytest.raises(ValueError, match=re.escape(f"model {wrong!r}")) as caught:
        model_hub.resolve(wrong)
    assert "\n" not in str(caught.value)


def test_a_hub_id_that_cannot_be_downloaded_names_the_remedy(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"'nobody/no-such-model'.*HF_HUB_OFFLINE.*local folder") as caught:
        model_hub.folder("nobody/no-such-model")
    assert "\n" not in str(caught.value)


def test_a_download_is_one_folder_of_a_revision_without_pickles_and_code(monkeypatch, tmp_path):
    import fnmatch

    import huggingface_hub

    request = {}
    make_model(tmp_path / "vae")

    def download(repo, *, revision, allow_patterns):
        request.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert model_hub.folder("a/b/vae@123") == tmp_path / "vae"
    assert (request["repo"], request["revision"]) == ("a/b", "123")

    def is_downloaded(path):
        return any(fnmatch.fnmatch(path, pattern) for pattern in request["patterns"])

    assert is_downloaded("vae/config.json")
    assert is_downloaded("vae/diffusion_pytorch_model.safetensors")
    assert not any(map(is_downloaded, ("vae/pytorch_model.bin", "vae/model.py", "unet/config.json", "x.ckpt")))
    with pytest.raises(ValueError, match="has no folder 'text_encoder'"):
        model_hub.folder("a/b/text_encoder@123")


def test_the_digest_follows_the_content_and_not_the_place(tmp_path):
    one = make_model(tmp_path / "one")
    two = make_model(tmp_path / "two")
    other = make_model(tmp_path / "other", b"other")
    assert model_hub.digest(str(one)) == model_hub.digest(str(two))
    assert model_hub.digest(str(one)) != model_hub.digest(str(other))
    (two / "README.md").write_text("words")
    (two / ".cache").mkdir()
    (two / ".cache" / "x.json").write_text("words")
    assert model_hub.digest(str(one)) == model_hub.digest(str(two))
    (two / "tokenizer.json").write_text("{}")
    assert model_hub.digest(str(one)) != model_hub.digest(str(two))
    assert model_hub.digest(str(one / "model.safetensors")) == model_hub.digest(str(two / "model.safetensors"))


def test_a_changed_file_changes_the_digest_in_the_same_process(tmp_path):
    folder = make_model(tmp_path / "one")
    before = model_hub.digest(str(folder))
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert model_hub.digest(str(folder)) != before


def test_large_files_are_read_once(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(model_hub, "CACHED_DIGEST_BYTES", 4)
    folder = make_model(tmp_path / "one")
    before = model_hub.digest(str(folder))
    assert len(list((cache / "digests").iterdir())) == 1

    def refuse(path):
        assert path.endswith(".json"), f"{path} was read again"
        return sha256(path)

    sha256 = model_hub._sha256
    model_hub._cached_digest.cache_clear()  # as in another process
    monkeypatch.setattr(model_hub, "_sha256", refuse)
    assert model_hub.digest(str(folder)) == before


def test_the_digest_of_a_hub_id_is_id_and_revision():
    assert model_hub.digest("microsoft/phi-2") == "microsoft/phi-2@main"
    assert model_hub.digest("a/b/vae@123") == "a/b/vae@123"


def test_an_error_of_a_library_becomes_one_line():
    with pytest.raises(ValueError, match=r"model 'x/y' cannot be loaded: two lines$"), model_hub.loading("x/y"):
        raise OSError("two\n   lines")
