"""The ground truth of the shapes world, which other results are compared with, agrees with the pixels."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.core.stage import Row, apply
from pipelines.curation.ingest import Ingest
from pipelines.curation.shots import Shots
from pipelines.media.frames import read_frames
from pipelines.media.sources import list_sources
from pipelines.shapes_world.corpus import BROKEN, CAPTIONS, ROLES, UGLY, write_corpus
from pipelines.shapes_world.draw import render, true_flow
from pipelines.shapes_world.scenes import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    PATHS,
    SHAPES,
    SIZES,
    SPEEDS,
    TEXTURES,
    TURNINGS,
    Scene,
    Thing,
    long_caption,
    sample_scene,
    short_caption,
)

ITEMS = 100


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, items=ITEMS, seed=3)
    return folder


@pytest.fixture(scope="module")
def truth(corpus) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (corpus / "truth.jsonl").read_text().splitlines()]


def one(shape: str = "circle", **settings: Any) -> Scene:
    thing = Thing(**{"shape": shape, "colour": "red", "size": "large", "x": 40.3, "y": 50.8, **settings})
    return Scene(width=100, height=96, background="black", texture="plain", things=(thing,))


def redness(frame: np.ndarray) -> np.ndarray:
    return (frame[..., 0].astype(float) - frame[0, 0, 0]) / (COLOURS["red"][0] - frame[0, 0, 0])


def centroid(weights: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(weights.shape)
    total = weights.sum()
    return (columns * weights).sum() / total + 0.5, (rows * weights).sum() / total + 0.5


# Drawing


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi),
        ("square", 2.0),
        ("triangle", 3 * math.sqrt(3) / 4),
        ("ring", math.pi * (1 - 0.55**2)),
        ("cross", 4 * 0.64 * (0.94 - 0.32) + 0.64**2),
        ("star", 10 * 0.5 * 0.42 * math.sin(math.pi / 5)),
    ],
)
def test_shapes_have_their_area_and_place_and_smooth_edges(shape, area):
    covered = redness(render(one(shape))[0])
    radius = SIZES["large"] * 96
    assert covered.sum() == pytest.approx(area * radius**2, rel=0.03)
    assert centroid(covered) == pytest.approx((40.3, 50.8), abs=0.15)
    assert ((covered > 0.1) & (covered < 0.9)).any() or shape == "square"


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("speed", SPEEDS)
def test_things_move_at_their_speed(direction, speed):
    frames = render(one(direction=direction, speed=speed, size="small"), [0.0, 0.9])
    (x0, y0), (x1, y1) = (centroid(redness(frame)) for frame in frames)
    right, down = DIRECTIONS[direction]
    assert math.hypot(x1 - x0, y1 - y0) == pytest.approx(SPEEDS[speed] * 96 * 0.9, abs=0.2)
    assert np.sign([round(x1 - x0), round(y1 - y0)]).tolist() == [right, down]


def test_textures_differ_and_stand_still():
    scenes = [Scene(width=64, height=64, background="grey", texture=name, things=()) for name in TEXTURES]
    pictures = [render(scene, [0.0, 1.0]) for scene in scenes]
    assert len({picture[0].tobytes() for picture in pictures}) == len(TEXTURES)
    assert all((picture[0] == picture[1]).all() for picture in pictures)


@pytest.mark.parametrize("turn", ["clockwise", "counterclockwise"])
def test_turning_things_stay_and_turn_in_their_direction(turn):
    """A triangle's tip points up at first; after a quarter turn to the right, or to the left."""
    scene = one("triangle", path="turning", direction=turn, speed="steadily")
    first, quarter, full_turn = (redness(frame) for frame in render(scene, [0.0, 1.0, 4.0]))
    assert centroid(first) == pytest.approx(centroid(quarter), abs=0.2)
    np.testing.assert_allclose(first, full_turn, atol=0.02)
    columns = np.nonzero(quarter > 0.5)[1]
    left, right = 40.3 - columns.min(), columns.max() + 1 - 40.3
    assert (right > 1.5 * left) == (turn == "clockwise")
    assert (left > 1.5 * right) == (turn == "counterclockwise")


def test_bouncing_things_are_reflected_at_their_bounds():
    thing = one(
        path="bouncing", direction="right", speed="quickly", x=70.0, y=40.0, room=(20.0, 80.0, 20.0, 76.0)
    ).things[0]
    pace = SPEEDS["quickly"] * 96
    assert thing.centre(0.25, 96) == pytest.approx((70 + 0.25 * pace, 40))
    assert thing.centre(1.0, 96) == pytest.approx((160 - 70 - pace, 40))
    assert thing.centre(120 / pace, 96) == pytest.approx((70, 40))


def test_sampled_things_stay_in_the_central_square_and_apart_unless_they_cross():
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for _ in range(600):
        scene = sample_scene(rng, width=128, height=72, seconds=2.5)
        for thing in scene.things:
            words = [thing.shape, thing.colour, thing.size, thing.direction or "still", thing.speed or "still"]
            counts.update([*words, thing.path])
            radius = thing.radius(72)
            for time in np.linspace(0, 2.5, 20):
                x, y = thing.centre(time, 72)
                assert 28 + radius <= x <= 100 - radius
                assert radius <= y <= 72 - radius
        if len(scene.things) == 2:
            first, second = scene.things
            distances = [
                math.dist(first.centre(time, 72), second.centre(time, 72)) - first.radius(72) - second.radius(72)
                for time in np.linspace(0, 2.5, 40)
            ]
            assert min(distances[0], distances[-1]) > 0
            crosses = second.direction is not None
            assert crosses or min(distances) > 0
            counts["crossing" if crosses else "apart"] += 1
            counts["covering"] += min(distances) < 0
    assert set(counts) >= {*SHAPES, *COLOURS, *SIZES, *DIRECTIONS, *SPEEDS, *PATHS, *TURNINGS, "still"}
    assert min(counts["crossing"], counts["apart"], counts["covering"]) > 5


@pytest.mark.parametrize(
    "thing",
    [
        {"direction": "lower right", "speed": "quickly"},
        {"direction": "clockwise", "speed": "quickly", "path": "turning"},
        {"direction": "right", "speed": "quickly", "path": "bouncing", "x": 78.0, "room": (20.0, 80.0, 20.0, 76.0)},
    ],
    ids=["straight", "turning", "bouncing"],
)
def test_the_true_flow_leads_to_where_the_pixels_are_later(thing):
    scene = one("cross", **thing)
    before, after = (redness(frame) for frame in render(scene, [0.2, 0.5]))
    flow, owner = true_flow(scene, 0.2, 0.5)
    decided = np.abs(before - 0.5) > 0.1
    assert ((owner == 1) == (before > 0.5))[decided].all()
    assert not flow[owner == 0].any()
    rows, columns = np.nonzero(before > 0.95)
    moved = flow[rows, columns]
    x, y = (columns + moved[:, 0]).round().astype(int), (rows + moved[:, 1]).round().astype(int)
    assert np.abs(moved).max() > 1
    assert (after[y, x] > 0.5).mean() > 0.98
    assert (after[rows, columns] > 0.5).mean() < 0.95  # it would show if nothing moved


def test_captions_describe_their_scene():
    moving = one("star", colour="orange", size="small", direction="upper left", speed="quickly")
    assert short_caption(moving) == "an orange star moving to the upper left"
    assert long_caption(moving, video=True) == (
        "A small orange star moves quickly to the upper left on a plain black background."
    )
    turning = one("star", path="turning", direction="clockwise", speed="slowly")
    assert short_caption(turning) == "a red star turning clockwise"
    assert long_caption(turning, video=True) == "A large red star turns slowly clockwise on a plain black background."
    bouncing = one(path="bouncing", direction="left", speed="quickly")
    assert short_caption(bouncing) == "a red circle bouncing to the left"
    assert "A large red circle bounces quickly to the left" in long_caption(bouncing, video=True)
    assert long_caption(one(), video=False) == "A large red circle on a plain black background."
    assert long_caption(one(), video=True) == "A large red circle stands still on a plain black background."


# The corpus


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_corpus(tmp_path / name, items=24, seed=seed)
    first, second, third = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    )
    assert len(first) == 26
    assert first == second
    assert first != third


def test_labels_and_captions_have_their_shares(corpus, truth):
    labels = Counter(row["label"] for row in truth)
    assert {label: labels[label] for label in ROLES} == {label: round(ITEMS * share) for label, share in ROLES.items()}
    assert {row["ugly"] for row in truth} == {*UGLY, None}
    assert {row["broken"] for row in truth} == {*BROKEN, None}
    kinds = Counter(row["caption_given"] for row in truth if row["label"] != "broken")
    for name, share in CAPTIONS.items():
        assert kinds[name] / sum(kinds.values()) == pytest.approx(share, abs=0.12)
    captions = [source.caption for source in list_sources(str(corpus / "manifest.jsonl"))]
    for row, caption in zip(truth, captions, strict=True):
        short, long = row["caption_short"], row["caption_long"]
        assert {
            "true": caption in (short, long) and caption is not None,
            "noisy": caption is not None and short is not None and short in caption and caption != short,
            "wrong": caption not in (short, long, None),
            "missing": caption is None,
        }[row["caption_given"]]


@pytest.fixture(scope="module")
def ingested(corpus) -> list[Row]:
    sources = list_sources(str(corpus / "manifest.jsonl"))
    return apply(Ingest(), None, [{"uri": source.uri, "source_error": None} for source in sources])


def test_files_agree_with_the_ground_truth(truth, ingested):
    for row, result in zip(truth, ingested, strict=True):
        assert Path(result["uri"]).name == Path(row["uri"]).name
        assert (result["failed_stage"] is not None) == (row["label"] == "broken"), (row, result)
        if row["label"] != "broken":
            facts = ("kind", "height", "width", "frames", "fps")
            assert [result[name] for name in facts] == [row[name] for name in facts]


def test_exact_duplicates_are_equal_and_near_ones_look_alike(corpus, truth, ingested):
    ids = {row["uri"]: result["asset_id"] for row, result in zip(truth, ingested, strict=True)}
    for row in truth:
        if row["duplicate_of"] is None:
            continue
        assert (ids[row["uri"]] == ids[row["duplicate_of"]]) == (row["label"] == "exact_duplicate")
        pair = [read_frames(str(corpus / uri), [0.0], crop=(32, 32))[0] for uri in (row["uri"], row["duplicate_of"])]
        assert np.abs(pair[0].astype(int) - pair[1]).mean() < 12
    originals = [row["uri"] for row in truth if row["label"] not in ("exact_duplicate", "broken")]
    assert len({ids[uri] for uri in originals}) == len(originals)


def test_true_cuts_are_detected(truth, ingested):
    stage = Shots(min_seconds=0.5)
    cuts = 0
    for row, result in zip(truth, apply(stage, stage.load(), ingested), strict=True):
        if row["label"] == "broken":
            continue
        edges = np.cumsum([shot["frames"] for shot in result["shots"]])
        assert edges[:-1].tolist() == row["cuts"], row["uri"]
        cuts += len(row["cuts"])
    assert cuts >= 5


def test_the_first_thing_has_its_colour_at_its_place(corpus, truth):
    for row in truth:
        if row["label"] not in ("clean", "misnamed"):
            continue
        scene = row["scenes"][0]
        thing = scene["things"][0]
        if thing["shape"] == "ring":
            continue
        frame = read_frames(str(corpus / row["uri"]))[0]
        patch = frame[int(thing["y"]) - 1 : int(thing["y"]) + 2, int(thing["x"]) - 1 : int(thing["x"]) + 2]
        distances = {name: math.dist(patch.mean(axis=(0, 1)), colour) for name, colour in COLOURS.items()}
        assert min(distances, key=distances.__getitem__) == thing["colour"]
        assert scene["background"] in BACKGROUNDS
