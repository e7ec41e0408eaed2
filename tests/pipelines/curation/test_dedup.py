"""Near duplicates: who is grouped with whom, in one run and against the table."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.curation.dedup import COLUMNS, Dedup, changes, regroup


def clips(pictures=None, **angles):
    """Clips whose embeddings are unit vectors at these angles in degrees; 'v' names are videos."""
    rows = []
    for name, value in angles.items():
        angle, group = value if isinstance(value, tuple) else (value, None)
        vector = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], np.float16)
        rows.append(
            {
                "clip_id": name,
                "kind": "video" if name.startswith("v") else "image",
                "embedding": vector.tobytes(),
                "embedding_dtype": "float16",
                "thumbnails": (pictures or {}).get(name),
                "duplicate_group": group,
            }
        )
    types = {"embedding": pa.binary(), "thumbnails": pa.binary()}
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS]))


CONFIG = Dedup(threshold=float(np.cos(np.radians(10))), block=2)


def groups(new, placed=None):
    return regroup(CONFIG, new, lambda: placed.to_batches() if placed is not None else [])


def test_close_clips_form_a_group_named_after_the_smallest_id():
    assert groups(clips(b=0, a=5, c=90)) == {"a": "a", "b": "a"}


def test_groups_are_transitive():
    assert groups(clips(a=0, b=8, c=16, d=24)) == dict.fromkeys("abcd", "a")


def test_an_image_and_a_video_are_never_duplicates():
    assert groups(clips(a=0, v=0)) == {}


def test_a_new_clip_joins_a_clip_of_the_table():
    new, placed = clips(b=0), clips(a=3, z=90)
    joined = groups(new, placed)
    assert changes(joined, new, placed.to_batches()) == {"b": "a", "a": "a"}


def test_a_new_clip_that_bridges_two_groups_makes_them_one():
    new = clips(m=10)
    placed = clips(a=(3, "a"), b=(3, "a"), x=(17, "x"), y=(17, "x"))
    joined = groups(new, placed)
    assert changes(joined, new, placed.to_batches()) == {"m": "a", "x": "a", "y": "a"}


def test_a_smaller_id_renames_the_group_of_the_table():
    new, placed = clips(a=1), clips(b=(0, "b"), c=(2, "b"))
    assert changes(groups(new, placed), new, placed.to_batches()) == {"a": "a", "b": "a", "c": "a"}


def test_new_clips_without_a_twin_are_recorded_as_alone():
    new = clips(a=0, b=90)
    assert changes(groups(new), new, []) == {"a": None, "b": None}


def test_blocks_do_not_change_the_result():
    rng = np.random.default_rng(0)
    new = clips(**{f"c{n:02d}": float(angle) for n, angle in enumerate(rng.uniform(0, 360, 40))})
    in_one_block = regroup(Dedup(threshold=CONFIG.threshold, block=1000), new, list)
    assert groups(new) == in_one_block


def test_a_threshold_that_is_no_cosine_is_refused():
    with pytest.raises(ValueError, match="cosine"):
        Dedup(threshold=0.0)


def picture(*values):
    return np.array(values, np.uint8).tobytes()


def test_pixels_tell_lookalikes_from_copies():
    thumbnails = {
        "a": picture(10, 200, 30, 90),
        "b": picture(25, 180, 42, 91),  # paler
        "c": picture(200, 10, 90, 30),  # elsewhere
        "d": picture(10, 200, 30, 90, 10, 200, 30, 90),  # of more frames
        "f": picture(7, 7, 7, 7),  # flat
    }
    config = Dedup(threshold=0.9, alike=0.95)
    close = clips(thumbnails, a=0, b=0, c=0, d=0)
    assert regroup(config, close, list) == {"a": "a", "b": "a"}
    without_pixels = clips(thumbnails, a=0, e=0)
    assert regroup(config, without_pixels, list) == {"a": "a", "e": "a"}, "without pixels the cosine decides"
    assert regroup(config, clips(thumbnails, a=0, f=0), list) == {"a": "a", "f": "a"}, "what is flat differs in nothing"
    placed = clips(thumbnails, b=(0, None), c=(0, None)).to_batches()
    assert regroup(config, clips(thumbnails, a=0), lambda: placed) == {"a": "a", "b": "a"}


def test_the_fingerprint_follows_every_threshold():
    configs = [Dedup(), Dedup(threshold=0.9), Dedup(alike=0.95), Dedup(alike=0.9)]
    assert len({config.fingerprint("clip") for config in configs}) == 4


@pytest.mark.parametrize("alike", [0, 1.5])
def test_a_correlation_that_makes_no_sense_is_refused(alike):
    with pytest.raises(ValueError, match=r"dedup\.alike"):
        Dedup(alike=alike)
