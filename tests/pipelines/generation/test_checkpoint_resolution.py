"""Resolution of checkpoints: where the components of runs, of their checkpoints and of released folders are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.generation.checkpoint_resolution import ResolvedCheckpoint, resolve_checkpoint

COMPONENTS = {"vae": "fake/vae", "text_encoder": "fake/text_encoder", "version": 3, "preset": "tiny"}


def trained(folder: Path) -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "components.json").write_text(json.dumps(COMPONENTS))
    return folder


def test_a_run_gives_its_finished_model_else_its_newest_checkpoint(tmp_path: Path) -> None:
    trained(tmp_path / "checkpoints" / "step-00000050")
    newest = trained(tmp_path / "checkpoints" / "step-00000100")
    assert resolve_checkpoint(str(tmp_path)).transformer == str(newest / "transformer")
    finished = trained(tmp_path / "model")
    resolved = resolve_checkpoint(str(tmp_path))
    assert resolved.checkpoint == str(finished)
    assert (resolved.vae, resolved.text_encoder, resolved.data_version) == ("fake/vae", "fake/text_encoder", 3)
    older = resolve_checkpoint(str(tmp_path / "checkpoints" / "step-00000050"))
    assert older.transformer.endswith("step-00000050/transformer")


def test_a_released_folder_brings_its_own_parts(tmp_path: Path) -> None:
    for component in ("transformer", "scheduler"):
        (tmp_path / component).mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    resolved = resolve_checkpoint(str(tmp_path))
    assert (resolved.vae, resolved.tokenizer) == (str(tmp_path / "vae"), str(tmp_path / "tokenizer"))
    other = resolve_checkpoint(str(tmp_path), vae="fake/vae", text_encoder="fake/text_encoder")
    assert (other.vae, other.text_encoder, other.tokenizer) == ("fake/vae", "fake/text_encoder", None)


def test_the_bundled_checkpoint_is_made_of_the_zoo() -> None:
    resolved = resolve_checkpoint("zoo/nova")
    assert Path(resolved.transformer).is_dir()
    assert Path(resolved.scheduler).is_dir()
    assert (resolved.vae, resolved.text_encoder, resolved.preset) == ("zoo/vae", "zoo/text_encoder", "shapes")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="no scheduler/; download all of its folders"):
        resolve_checkpoint(str(tmp_path))


@pytest.mark.odd_input(
    "Models",
    "A checkpoint that takes class labels, for a command that generates from prompts",
    "An error before anything starts, which points to `nova_model.NovaPipeline` and `class_labels`.",
)
@pytest.mark.parametrize("released", [True, False])
def test_a_model_of_class_labels_is_refused(released: bool, tmp_path: Path) -> None:
    if released:
        (tmp_path / "transformer").mkdir()
        (tmp_path / "scheduler").mkdir()
        (tmp_path / "model_index.json").write_text('{"text_encoder": [null, null]}')
    else:
        trained(tmp_path)
    config = tmp_path / "transformer" / "config.json"
    config.write_text(json.dumps({"text_token_dim": None, "text_token_len": None}))
    with pytest.raises(ValueError, match=r"takes class labels, not prompts; .*NovaPipeline and class_labels") as caught:
        resolve_checkpoint(str(tmp_path))
    assert "\n" not in str(caught.value)
    for content in ('{"text_token_dim": 64}', "{}", "[]", "damaged"):
        config.write_text(content)
        assert resolve_checkpoint(str(tmp_path)).transformer == str(tmp_path / "transformer")


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "--checkpoint is missing"), ("/nowhere", "no such folder"), ("EMPTY", "is not a checkpoint")],
)
def test_what_is_no_checkpoint_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_checkpoint(str(tmp_path) if name == "EMPTY" else name)


def test_a_hub_id_that_cannot_be_fetched_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="cannot be fetched from the hub") as caught:
        resolve_checkpoint("OWNER/some-nova")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_was_being_written_is_passed_over(tmp_path: Path) -> None:
    for step in (900, 1000, 20):
        trained(tmp_path / "checkpoints" / f"step-{step:08d}")
    (tmp_path / "checkpoints" / "step-00002000" / "transformer").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00003000").mkdir()
    (tmp_path / "checkpoints" / "step-00003000" / "components.json").write_text(json.dumps(COMPONENTS))
    assert resolve_checkpoint(str(tmp_path)).checkpoint == str(tmp_path / "checkpoints" / "step-00001000")


def test_a_trained_model_says_all_of_its_parts_and_takes_others(tmp_path: Path) -> None:
    folder = trained(tmp_path / "model")
    assert resolve_checkpoint(str(folder)) == ResolvedCheckpoint(
        checkpoint=str(folder),
        transformer=str(folder / "transformer"),
        scheduler=str(folder / "scheduler"),
        vae="fake/vae",
        text_encoder="fake/text_encoder",
        tokenizer=None,
        data_version=3,
        preset="tiny",
    )
    other = resolve_checkpoint(str(folder), vae="my/vae", text_encoder="my/encoder")
    assert (other.vae, other.text_encoder) == ("my/vae", "my/encoder")


def test_a_released_tokenizer_stays_with_its_own_text_encoder(tmp_path: Path) -> None:
    for component in ("transformer", "scheduler"):
        (tmp_path / component).mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    assert resolve_checkpoint(str(tmp_path), vae="fake/vae").tokenizer == str(tmp_path / "tokenizer")
    assert resolve_checkpoint(str(tmp_path), text_encoder="my/encoder").tokenizer is None
    assert (resolve_checkpoint(str(tmp_path)).data_version, resolve_checkpoint(str(tmp_path)).preset) == (None, None)


def test_relative_addresses_and_home_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = str(trained(tmp_path / "run" / "model") / "transformer")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    resolved = [resolve_checkpoint(name).transformer for name in ("run", "./run/", "~/run", "run/model")]
    assert resolved == [expected] * 4, "run/model could be a hub id, but a folder that is here is meant"


@pytest.mark.parametrize("name", ["./gone/model", "gone", "some/where/deep", "~/gone"])
def test_addresses_that_are_no_hub_ids_are_not_looked_for_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ValueError, match="no such folder"):
        resolve_checkpoint(name)


def test_a_hub_id_is_fetched_without_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without other variants; .bin files only of parts that have no safetensors."""
    import huggingface_hub

    files = [
        "README.md", "model_index.json", "other/config.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt",
        "transformer/config.json", "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.bin", "transformer/model.py", "vae/config.json",
        "vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.bin",
    ]  # fmt: skip

    def snapshot_download(repo: str, **settings: Any) -> str:
        assert repo == "owner/repo"
        for name in huggingface_hub.utils.filter_repo_objects(files, **settings):
            path = tmp_path / "hub" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint("owner/repo").transformer == str(tmp_path / "hub" / "transformer")
    fetched = {str(path.relative_to(tmp_path / "hub")) for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    assert set(files) - fetched == {
        "README.md", "other/config.json", "transformer/diffusion_pytorch_model.bin", "transformer/model.py",
        "vae/diffusion_pytorch_model.fp16.bin",
    }  # fmt: skip
