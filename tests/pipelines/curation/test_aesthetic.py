"""Beauty scores: the published heads as they are, the mean and the lowest frame, the clip's embedding."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.core.stage import apply
from pipelines.curation.aesthetic import Aesthetic, Scorer, load_head
from pipelines.media.write import write_image, write_video

aesthetic_stage = partial(Aesthetic, model="fake/clip", head="fake/aesthetic")
"""A stage of untrained models, for tests that change one of them or hand in a scorer of their own."""


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
    clip, gone, image, second = apply(aesthetic_stage(frames=4, short_side=32), scorer, rows)
    assert (clip["aesthetic_mean"], clip["aesthetic_min"]) == (
        pytest.approx(5.0, abs=0.1), pytest.approx(0.0, abs=0.1),
    )  # fmt: skip
    assert gone["failed_stage"] == "aesthetic"
    assert image["aesthetic_mean"] == pytest.approx(10.0, abs=0.05)
    assert second["aesthetic_mean"] == pytest.approx(0.0, abs=0.1)
    embedding = np.frombuffer(clip["embedding"], clip["embedding_dtype"]).reshape(clip["embedding_shape"])
    np.testing.assert_allclose(embedding, [0.707, 0.707, 0.0], atol=0.02)


def test_clip_and_head_fit_each_other() -> None:
    scorer = aesthetic_stage().load()
    features = scorer.clip.image_features([np.zeros((50, 80, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)])
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))
    assert scorer(features).shape == (2,)


def test_a_linear_head_by_hand_from_a_file_or_a_folder(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = {"weight": torch.tensor([[2.0, -1.0]]), "bias": torch.tensor([0.5])}
    (tmp_path / "folder").mkdir()
    save_file(state, tmp_path / "folder" / "head.safetensors")
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "head.pth")
    features = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    for place in (tmp_path / "folder", tmp_path / "folder" / "head.safetensors", tmp_path / "head.pth"):
        scores = load_head(str(place))(features).squeeze(-1)
        torch.testing.assert_close(scores, torch.tensor([0.9, 2.5]))


def test_layers_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    state = {}
    for number, factor, shift in ((10, 5.0, 7.0), (2, 3.0, 1.0), (0, 2.0, 0.0)):  # 10 would sort before 2 as text
        state[f"layers.{number}.weight"] = torch.tensor([[factor]])
        state[f"layers.{number}.bias"] = torch.tensor([shift])
    torch.save(state, tmp_path / "head.pth")
    score = load_head(str(tmp_path / "head.pth"))(torch.tensor([[4.0]]))
    assert score.item() == ((4 * 2) * 3 + 1) * 5 + 7


def test_a_folder_without_a_head_and_a_damaged_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no aesthetic head in .*; name a \.pth or \.safetensors file"):
        load_head(str(tmp_path))
    (tmp_path / "head.pth").write_bytes(b"not a head at all" * 9)
    with pytest.raises(ValueError, match=r"head\.pth") as caught:
        load_head(str(tmp_path / "head.pth"))
    assert "\n" not in str(caught.value)


def test_published_heads_refuse_embeddings_of_another_width(shared: Path) -> None:
    clip = aesthetic_stage().load().clip  # 64 values
    for name, width in (("sa_0_4_vit_b_32_linear.pth", 512), ("sac+logos+ava1-l14-linearMSE.pth", 768)):
        with pytest.raises(ValueError, match=f"takes embeddings of {width} values, the CLIP model gives 64") as caught:
            Scorer(clip, load_head(str(shared / "aesthetic_heads" / name)))
        assert "\n" not in str(caught.value)


def test_the_published_linear_head_scores_ordinary_values(shared: Path) -> None:
    """Unit-length features score within the scale's reach; raw ones would score far outside."""
    head = load_head(str(shared / "aesthetic_heads" / "sa_0_4_vit_l_14_linear.pth"))
    features = torch.nn.functional.normalize(torch.randn(256, 768, generator=torch.Generator().manual_seed(0)), dim=-1)
    with torch.inference_mode():
        scores = head(features)
    assert 0 < scores.min() < scores.max() < 11


def test_frames_are_spread_over_the_clip_at_the_size_asked_for(tmp_path: Path) -> None:
    looked_at: list[tuple[float, tuple[int, ...]]] = []

    class Recorder(FakeClip):
        def image_features(self, frames: list[np.ndarray]) -> Tensor:
            looked_at.extend((round(float(frame.mean()), -1), frame.shape) for frame in frames)
            return super().image_features(frames)

    scorer = Scorer(Recorder(), torch.nn.Linear(3, 1))
    looked_at.clear()  # the scorer has looked at one picture to learn the width
    levels = np.stack([np.full((64, 96, 3), 10 * index, np.uint8) for index in range(16)])
    write_video(tmp_path / "a.mp4", levels, 8, crf=1)
    row = {"uri": str(tmp_path / "a.mp4"), "kind": "video", "start": 0.0, "end": 2.0}
    apply(aesthetic_stage(frames=4, short_side=32), scorer, [row])
    assert looked_at == [(level, (32, 48, 3)) for level in (20, 60, 100, 140)]


def test_bad_files_fail_alone_wherever_they_stand(tmp_path: Path, scorer: Scorer) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    rows = []
    for index, name in enumerate(["bad0", "10", "bad1", "bad2", "0", "5", "bad3"]):
        path = tmp_path / f"{index}.png"
        if name.startswith("bad"):
            path.write_bytes(b"no picture")
        else:
            angle = np.arccos(int(name) / 10)  # scores are ten times the share of red
            picture[..., 0], picture[..., 1] = round(200 * np.cos(angle)), round(200 * np.sin(angle))
            write_image(path, picture)
        rows.append({"uri": str(path), "kind": "image", "start": 0.0, "end": 0.0})
    scored = apply(aesthetic_stage(), scorer, rows)
    bad = ["aesthetic", None, "aesthetic", "aesthetic", None, None, "aesthetic"]
    assert [row["failed_stage"] for row in scored] == bad
    assert [row["aesthetic_mean"] for row in scored if not row["failed_stage"]] == pytest.approx([10, 0, 5], abs=0.05)
    only_bad = apply(aesthetic_stage(), scorer, [rows[0], rows[2]])
    assert [row["failed_error"] for row in only_bad] == ["MediaError", "MediaError"]
    assert [row["aesthetic_mean"] for row in only_bad] == [None, None]


def test_text_and_picture_features_share_a_width_and_unit_length() -> None:
    clip = aesthetic_stage().load().clip
    texts = clip.text_features(["a red square", "a blue circle"])
    assert texts.shape == (2, 64)
    assert texts.dtype == torch.float32
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(2))
    assert not torch.allclose(texts[0], texts[1])
    pictures = [np.random.default_rng(seed).integers(0, 255, (50 + seed, 80, 3), dtype=np.uint8) for seed in range(3)]
    together = clip.image_features(pictures)
    torch.testing.assert_close(together[2], clip.image_features(pictures[2:])[0], atol=1e-5, rtol=1e-4)


def test_the_fingerprint_follows_the_head_that_is_used(tmp_path: Path) -> None:
    (tmp_path / "head.pth").write_bytes(b"one")
    one = aesthetic_stage(head=str(tmp_path / "head.pth")).fingerprint
    (tmp_path / "head.pth").write_bytes(b"other")
    assert len({one, aesthetic_stage(head=str(tmp_path / "head.pth")).fingerprint, aesthetic_stage().fingerprint}) == 3
    assert (
        aesthetic_stage(model="ViT-L-14", pretrained="openai").fingerprint
        != aesthetic_stage(model="ViT-L-14").fingerprint
    )
