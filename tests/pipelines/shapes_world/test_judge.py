"""The judge of the shapes world against the ground truth: it detects in pixels what was rendered."""

import cv2
import numpy as np
import pytest

from pipelines.media.frames import read_frames
from pipelines.media.write import write_video
from pipelines.shapes_world.draw import render
from pipelines.shapes_world.judge import detect, follow
from pipelines.shapes_world.scenes import DIRECTIONS, SPEEDS, Scene, Thing, sample_scene

BAR = 0.98


def scenes(count, seed=11, **settings):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, width=64, height=64, **settings) for _ in range(count)]


def words(things):
    return sorted((thing.shape or "", thing.colour, thing.size) for thing in things)


@pytest.mark.parametrize("softness", [0.0, 0.9], ids=["sharp", "soft"])
def test_pictures_are_read_as_they_were_drawn(softness):
    right = 0
    drawn = scenes(150)
    for scene in drawn:
        frame = render(scene)[0]
        if softness:
            frame = cv2.GaussianBlur(frame, (0, 0), softness)
        detections = detect(frame)
        right += words(detections) == words(scene.things)
        left = list(scene.things)
        for detection in detections:  # one-to-one with things of its colour at the same place
            alike = [thing for thing in left if thing.colour == detection.colour]
            thing = min(alike, key=lambda thing: np.hypot(detection.x - thing.x, detection.y - thing.y))
            assert np.hypot(detection.x - thing.x, detection.y - thing.y) < 1.0
            left.remove(thing)
    assert right / len(drawn) >= BAR


def test_videos_are_read_as_they_were_drawn(tmp_path):
    """After a real encoder, colour, shape, direction and speed of straight motion are right, in every frame."""
    right, total = 0, 0
    for scene in scenes(60, seconds=1.4):
        moving = [thing for thing in scene.things if thing.path == "straight"]
        if len(moving) != len(scene.things) or len({thing.direction for thing in moving} - {None}) > 1:
            continue  # bouncing and crossing things have other directions
        write_video(tmp_path / "a.mp4", render(scene, np.arange(17) / 12), 12, crf=18)
        tracks = follow(read_frames(str(tmp_path / "a.mp4"), (np.arange(17) + 0.5) / 12))
        tracked = sorted((track.shape or "", track.colour, track.direction or "") for track in tracks)
        expected = sorted((thing.shape, thing.colour, thing.direction or "") for thing in scene.things)
        right += tracked == expected
        for track in tracks:
            (thing,) = (thing for thing in scene.things if thing.colour == track.colour)
            speed = SPEEDS[thing.speed] if thing.speed else 0.0
            assert track.speed(12) == pytest.approx(speed, abs=0.02)
        right += all(track.constancy == 1 for track in tracks)
        total += 2
    assert total > 50
    assert right / total >= BAR


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_direction(direction):
    thing = Thing(shape="circle", colour="red", size="small", direction=direction, speed="slowly", x=32.0, y=32.0)
    scene = Scene(width=64, height=64, background="grey", texture="plain", things=(thing,))
    (track,) = follow(render(scene, np.arange(17) / 12))
    assert track.direction == direction


def test_nothing_is_detected_where_nothing_is():
    empty = Scene(width=64, height=64, background="brown", texture="checkered", things=())
    assert detect(render(empty)[0]) == []
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert all(thing.shape is None for thing in detect(noise))
    half = np.full((64, 64, 3), 14, np.uint8)
    half[:, 20:28] = (222, 40, 44)  # a red bar is no shape of this world
    assert [(thing.colour, thing.shape) for thing in detect(half)] == [("red", None)]


def test_a_thing_that_vanishes_or_changes_is_not_kept():
    scene = Scene(
        width=64, height=64, background="black", texture="plain",
        things=(Thing(shape="square", colour="blue", size="large", x=30.0, y=30.0),),
    )  # fmt: skip
    frames = render(scene, np.zeros(10))
    frames[4:6] = frames[0, 0, 0]
    (track,) = follow(frames)
    assert track.constancy == pytest.approx(0.8)
    assert track.direction is None
    other = Scene(
        width=64, height=64, background="black", texture="plain",
        things=(Thing(shape="circle", colour="blue", size="large", x=30.0, y=30.0),),
    )  # fmt: skip
    frames[7:] = render(other, np.zeros(3))
    (track,) = follow(frames)
    assert (track.shape, track.constancy) == ("square", pytest.approx(0.5))
