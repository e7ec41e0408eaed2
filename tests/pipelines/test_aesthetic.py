"""Beauty scores: the published heads as they are, the mean and the lowest frame, the clip's embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.aesthetic import Aesthetic, Scorer, load_head
from pipelines.media import write_image, write_video
from pipelines.stage import apply


@pytest.mark.parametrize(
    ("name", "width", "layers"),
    [
        ("sa_0_4_vit_l_14_linear.pth", 768, 1),
        ("sa_0_4_vit_b_32_linear.pth", 512, 1),
        ("sac+logos+ava1-l14-linearMSE.pth", 768, 5),
    ],
)
def test_published_heads_are_their_matrices_one_after_the_other(
    shared: Path, name: str, width: int, layers: int
) -> None:
    path = shared / "aesthetic_heads" / name
    head = load_head(str(path))
    state = torch.load(path, map_location="cpu", weights_only=True)
    matrices = [(key, value) for key, value in state.items() if value.ndim == 2]
    assert len(matrices) == layers
    features = torch.nn.functional.normalize(torch.randn(4, width, generator=torch.Generator().manual_seed(0)), dim=-1)
    expected = features.double()
    for key, matrix in matrices:  # no activation between the layers
        expected = expected @ matrix.double().T + state[key.removesuffix("weight") + "bias"].double()
    with torch.inference_mode():
        torch.testing.assert_close(head(features).double(), expected, atol=1e-4, rtol=1e-4)
    assert head(features).shape == (4, 1)


def test_a_head_is_loaded_without_running_what_is_in_it(tmp_path: Path) -> None:
    class Boom:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"weight": Boom()}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_head(str(tmp_path / "head.pth"))
    assert not (tmp_path / "ran").exists()


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    torch.save({"bias": torch.zeros(3)}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match="no aesthetic head"):
        load_head(str(tmp_path / "head.pth"))


class FakeClip:
    """The mean colour of a frame, at unit length: a stand-in with known features."""

    def image_features(self, frames: list[np.ndarray]) -> Tensor:
        colours = torch.tensor(np.array([frame.mean(axis=(0, 1)) + 1e-3 for frame in frames]))
        return torch.nn.functional.normalize(colours.float(), dim=-1)


def test_a_head_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="takes embeddings of 768 values, the CLIP model gives 3"):
        Scorer(FakeClip(), torch.nn.Linear(768, 1))


@pytest.fixture
def scorer() -> Scorer:
    """Scores 10 for red, 0 for what has none."""
    head = torch.nn.Linear(3, 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[10.0, 0.0, 0.0]]))
        head.bias.zero_()
    return Scorer(FakeClip(), head)


def test_mean_lowest_and_embedding_over_the_frames_of_a_clip(tmp_path: Path, scorer: Scorer) -> None:
    red, green = np.zeros((12, 64, 64, 3), np.uint8), np.zeros((12, 64, 64, 3), np.uint8)
    red[..., 0], green[..., 1] = 250, 250
    write_video(tmp_path / "a.mp4", np.concatenate([red, green]), 12, crf=1)
    write_image(tmp_path / "b.png", red[0])
    rows = [
        {"uri": str(tmp_path / "a.mp4"), "kind": "video", "start": 0.0, "end": 2.0},
        {"uri": str(tmp_path / "gone.png"), "kind": "image", "start": 0.0, "end": 0.0},
        {"uri": str(tmp_path / "b.png"), "kind": "image", "start": 0.0, "end": 0.0},
        {"uri": str(tmp_path / "a.mp4"), "kind": "video", "start": 1.0, "end": 2.0},
    ]
    whole, gone, image, second = apply(Aesthetic(frames=4, short_side=32), scorer, rows)
    assert (whole["aesthetic_mean"], whole["aesthetic_min"]) == (
        pytest.approx(5.0, abs=0.1), pytest.approx(0.0, abs=0.1),
    )  # fmt: skip
    assert gone["failed_stage"] == "aesthetic"
    assert image["aesthetic_mean"] == pytest.approx(10.0, abs=0.05)
    assert second["aesthetic_mean"] == pytest.approx(0.0, abs=0.1)
    embedding = np.frombuffer(whole["embedding"], whole["embedding_dtype"]).reshape(whole["embedding_shape"])
    np.testing.assert_allclose(embedding, [0.707, 0.707, 0.0], atol=0.02)


def test_the_embedded_models_fit_each_other() -> None:
    scorer = Aesthetic().load()
    features = scorer.clip.image_features([np.zeros((50, 80, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)])
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))
    assert scorer(features).shape == (2,)
