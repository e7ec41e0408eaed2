"""Where the parts of a checkpoint are: runs of ours, their checkpoints, released folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.components import find

PARTS = {"vae": "embedded/vae", "text_encoder": "embedded/text_encoder", "version": 3, "preset": "tiny"}


def trained(folder: Path) -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "components.json").write_text(json.dumps(PARTS))
    return folder


def test_a_run_gives_its_finished_model_else_its_newest_checkpoint(tmp_path: Path) -> None:
    trained(tmp_path / "checkpoints" / "step-00000050")
    newest = trained(tmp_path / "checkpoints" / "step-00000100")
    assert find(str(tmp_path)).transformer == str(newest / "transformer")
    finished = trained(tmp_path / "model")
    found = find(str(tmp_path))
    assert found.checkpoint == str(finished)
    assert (found.vae, found.text_encoder, found.data_version) == ("embedded/vae", "embedded/text_encoder", 3)
    older = find(str(tmp_path / "checkpoints" / "step-00000050"))
    assert older.transformer.endswith("step-00000050/transformer")


def test_a_released_folder_brings_its_own_parts(tmp_path: Path) -> None:
    for part in ("transformer", "scheduler"):
        (tmp_path / part).mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    found = find(str(tmp_path))
    assert (found.vae, found.tokenizer) == (str(tmp_path / "vae"), str(tmp_path / "tokenizer"))
    other = find(str(tmp_path), vae="embedded/vae", text_encoder="embedded/text_encoder")
    assert (other.vae, other.text_encoder, other.tokenizer) == ("embedded/vae", "embedded/text_encoder", None)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="no scheduler/; download it whole"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "--checkpoint is missing"), ("/nowhere", "no such folder"), ("EMPTY", "is no checkpoint")],
)
def test_what_is_no_checkpoint_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        find(str(tmp_path) if name == "EMPTY" else name)


def test_a_hub_id_that_cannot_be_fetched_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="cannot be fetched from the hub") as caught:
        find("OWNER/some-nova")
    assert "\n" not in str(caught.value)
