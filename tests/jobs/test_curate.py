"""`nova curate` as its users meet it: what the tables say, reruns, kills, changed settings, bad input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.curate import CurateConfig, curate, recurate
from jobs.recipes.registry import config_of
from pipelines.curation.curator import Curator
from pipelines.curation.filters import Filters
from pipelines.curation.runner import CommitPolicy
from pipelines.store.locks import BusyError, exclusive
from pipelines.store.tables import Tables
from tests.processes import wait_until

VERSIONED = ("assets", "clips", "examples", "failures")


def config(**changes: Any) -> CurateConfig:
    return replace(config_of("debug", "curate"), **changes)


def rows(tables: Path, table: str) -> list[dict[str, Any]]:
    return Tables(tables).read(table).to_pylist()


def versions(tables: Path) -> dict[str, int]:
    return {name: Tables(tables).version(name) for name in VERSIONED}


def test_every_file_is_accounted_for(curated: Path, media: Path) -> None:
    assets = {Path(row["uri"]).name: row for row in rows(curated, "assets")}
    assert len(assets) == 7
    copied = next(row for row in assets.values() if row["other_uris"])
    assert {Path(uri).name for uri in (copied["uri"], *copied["other_uris"])} == {"copy.png", "picture0.png"}
    failed = rows(curated, "failures")
    assert [(Path(row["item"]).name, row["stage"], row["attempt"]) for row in failed] == [("empty.mp4", "ingest", 1)]


def test_facts_are_those_of_the_files(curated: Path) -> None:
    by_name = {Path(row["uri"]).name: row for row in rows(curated, "assets")}
    video, picture = by_name["two_shots.mp4"], by_name["picture1.png"]
    assert (video["kind"], video["width"], video["height"], video["frames"], video["fps"]) == ("video", 96, 64, 36, 12)
    assert video["duration"] == pytest.approx(3.0)
    assert (picture["kind"], picture["width"], picture["height"], picture["frames"]) == ("image", 96, 64, 1)


def test_a_hard_cut_makes_two_clips(curated: Path) -> None:
    clips = [row for row in rows(curated, "clips") if row["uri"].endswith("two_shots.mp4")]
    spans = sorted((row["start"], row["end"], row["frames"]) for row in clips)
    assert spans == [(0.0, pytest.approx(1.5), 18), (pytest.approx(1.5), pytest.approx(3.0), 18)]


def test_an_example_leads_back_to_its_clip_and_holds_what_training_needs(curated: Path) -> None:
    clips = {row["clip_id"]: row for row in rows(curated, "clips")}
    examples = rows(curated, "examples")
    assert {row["clip_id"] for row in examples} == {key for key, row in clips.items() if row["accepted"]}
    assert Counter(row["bucket"] for row in examples) == {"1x64x64": 4, "17x64x64": 4}
    for row in examples:
        clip = clips[row["clip_id"]]
        assert (row["caption_short"], row["motion_score"]) == (clip["caption_short"], clip["motion_score"])
        moments = np.frombuffer(row["moments"], row["moments_dtype"]).reshape(row["moments_shape"])
        assert moments.shape == (16, 1 + (row["bucket_frames"] - 1) // 4, 8, 8), "a latent is four frames"
        assert np.isfinite(moments).all()
        assert row["short_text_shape"][1] == 96


def test_pandas_duckdb_and_pyarrow_read_the_files(curated: Path) -> None:
    import duckdb
    import pandas as pd
    from deltalake import DeltaTable

    frame = DeltaTable(str(curated / "clips")).to_pandas()
    assert isinstance(frame, pd.DataFrame)
    files = DeltaTable(str(curated / "clips")).file_uris()
    count = duckdb.sql(f"select count(*) from read_parquet({files!r}) where accepted").fetchall()
    assert count == [(int(frame.accepted.sum()),)]


def test_a_second_run_adds_nothing(curated: Path, media: Path, work: Path) -> None:
    tables = work / "again"
    shutil.copytree(curated, tables)
    before = versions(tables)
    summary = curate(config(input=str(media), tables=str(tables)))
    assert versions(tables) == before
    assert (summary.sources, summary.unchanged_sources, summary.new_clips, summary.new_examples) == (9, 9, 0, 0)


def test_only_what_is_new_is_done(curated: Path, media: Path, work: Path) -> None:
    tables, grown = work / "grown", work / "grown_media"
    shutil.copytree(curated, tables)
    shutil.copytree(media, grown)
    picture = np.random.default_rng(99).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    from pipelines.media.write import write_image

    write_image(grown / "new.png", picture)
    before = {row["clip_id"] for row in rows(tables, "clips")}
    summary = curate(config(input=str(grown), tables=str(tables)))
    added = {row["clip_id"] for row in rows(tables, "clips")} - before
    assert (summary.new_assets, len(added), summary.new_examples) == (1, 1, 1)
    assert summary.throughput["motion"].rows == 1, "clips that were done were scored again"


def test_new_thresholds_need_no_model(curated: Path, media: Path, work: Path) -> None:
    tables = work / "strict"
    shutil.copytree(curated, tables)
    scores = sorted(row["aesthetic_mean"] for row in rows(tables, "clips") if row["kind"] == "image")
    strict = Filters(min_aesthetic=scores[-1], min_motion=1e6)
    summary = curate(config(input=str(media), tables=str(tables), decide=strict))
    assert summary.accepted == 1
    assert summary.throughput == {}, "a model ran"
    assert summary.removed_examples == 7
    reasons = [row["reason"] for row in rows(tables, "clips") if not row["accepted"]]
    assert all(reason.startswith(("aesthetic", "motion")) for reason in reasons), reasons


def test_a_changed_text_encoder_recomputes_text_alone(curated: Path, media: Path, work: Path) -> None:
    tables = work / "other_text"
    shutil.copytree(curated, tables)
    base = config(input=str(media), tables=str(tables))
    before = {row["clip_id"]: row for row in rows(tables, "examples")}
    summary = curate(replace(base, text=replace(base.text, max_tokens=3)))
    after = {row["clip_id"]: row for row in rows(tables, "examples")}
    assert after.keys() == before.keys()
    assert (summary.new_examples, summary.removed_examples) == (8, 8)
    for key, row in after.items():
        assert row["short_text_shape"][0] <= 3
        assert row["moments"] == before[key]["moments"]
        assert row["caption_by"] == before[key]["caption_by"]
        assert row["text_by"] != before[key]["text_by"]


def test_captions_of_the_source_replace_text_alone_and_need_no_media_listing(curated: Path, work: Path) -> None:
    tables = work / "raw_captions"
    shutil.copytree(curated, tables)
    before = {row["clip_id"]: row for row in rows(tables, "examples")}
    named = min(before)
    Tables(tables).upsert("clips", [{"clip_id": named, "source_caption": "IMG_0001 for free"}])
    base = config(tables=str(tables))
    summary = recurate(replace(base, text=replace(base.text, captions="source")))
    assert (summary.sources, summary.new_examples, summary.removed_examples) == (0, 8, 8)
    assert set(summary.throughput) == {"reuse", "caption", "text", "latents"}
    after = {row["clip_id"]: row for row in rows(tables, "examples")}
    assert [key for key in before if after[key]["caption_hash"] != before[key]["caption_hash"]] == [named]
    assert [key for key in before if after[key]["short_text"] != before[key]["short_text"]] == [named]
    assert all(after[key]["moments"] == before[key]["moments"] for key in before)


def test_settled_tables_are_those_that_a_run_would_leave_as_they_are(curated: Path) -> None:
    def is_settled(**changes: Any) -> bool:
        return Curator(Tables(curated), config(**changes)).is_settled()

    assert is_settled()
    assert not is_settled(decide=Filters(min_motion=1e6))
    assert not is_settled(text=replace(config().text, captions="source"))


def test_tables_that_are_not_there_cannot_be_curated_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no table"):
        recurate(config(tables=str(tmp_path / "none")))
    assert not list(tmp_path.iterdir())


def test_bad_media_become_failures_and_the_run_goes_on(work: Path, ray_session: None, tmp_path: Path) -> None:
    from pipelines.media.write import write_image
    from tests.media_files import write_bad

    bad = [path for path in write_bad(tmp_path / "mixed") if path.suffix != ".mp3"]  # not listed: no medium's name
    write_image(tmp_path / "mixed" / "good.png", np.full((64, 64, 3), 90, np.uint8))
    curate(config(input=str(tmp_path / "mixed"), tables=str(work / "mixed_tables")))
    failed = rows(work / "mixed_tables", "failures")
    listed = {Path(row["item"]).name for row in failed}
    assert listed == {path.name for path in bad}
    assert all(row["stage"] in ("ingest", "shots") and "\n" not in row["message"] for row in failed)
    assert [Path(row["uri"]).name for row in rows(work / "mixed_tables", "assets")] == ["good.png"]
    again = curate(config(input=str(tmp_path / "mixed"), tables=str(work / "mixed_tables")))
    assert not again.failures, "what failed was tried again unasked"
    retried = curate(config(input=str(tmp_path / "mixed"), tables=str(work / "mixed_tables"), retry_failures=True))
    assert sum(retried.failures.values()) == len(bad)
    assert {row["attempt"] for row in rows(work / "mixed_tables", "failures")} == {1, 2}


@pytest.mark.drill
@pytest.mark.essential
def test_a_killed_run_goes_on_where_it_was(curated: Path, media: Path, work: Path, alone: None) -> None:
    tables = work / "killed"
    command = [sys.executable, "-m", "jobs.cli", "curate", "--input", str(media), "--tables", str(tables)]
    often = ["--set", "commits.rows=1", "--set", "commits.seconds=0", "--set", "commits.round_items=3"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    run = subprocess.Popen([*command, *often], start_new_session=True, env=environment)
    try:
        wait_until(lambda: _has_examples(tables) or run.poll() is not None)
        assert _has_examples(tables), "it ended before it could be killed"
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    kept = {row["clip_id"] for row in rows(tables, "examples")}
    curate(config(input=str(media), tables=str(tables), commits=CommitPolicy(rows=1, seconds=0)))
    whole = {row["example_id"] for row in rows(curated, "examples")}
    ids = [row["example_id"] for row in rows(tables, "examples")]
    assert sorted(ids) == sorted(whole), "something was lost, or is there twice"
    assert kept <= {row["clip_id"] for row in rows(tables, "examples")}
    clips = [row["clip_id"] for row in rows(tables, "clips")]
    assert sorted(clips) == sorted(row["clip_id"] for row in rows(curated, "clips"))


def _has_examples(tables: Path) -> bool:
    try:
        return Tables(tables).count("examples") > 0
    except (ValueError, OSError):
        return False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "--input is missing"),
        ({"input": "MEDIA"}, "--tables is missing"),
        ({"input": "/nowhere", "tables": "NEW"}, "nothing at /nowhere"),
        ({"input": "EMPTY", "tables": "NEW"}, "no images or videos"),
        ({"input": "MEDIA", "tables": "MEDIA"}, "holds other files"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(
    changes: dict[str, str], message: str, media: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"MEDIA": str(media), "NEW": str(tmp_path / "new"), "EMPTY": str(tmp_path / "empty")}
    with pytest.raises(ValueError, match=message) as caught:
        curate(config(**{key: places.get(value, value) for key, value in changes.items()}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_two_writers_are_refused(media: Path, tmp_path: Path) -> None:
    with exclusive(str(tmp_path)), pytest.raises(BusyError, match="another run"):
        curate(config(input=str(media), tables=str(tmp_path)))


@pytest.mark.slow
def test_real_media_are_curated_without_a_failure(shared: Path, work: Path, ray_session: None) -> None:
    summary = curate(config(input=str(shared / "media"), tables=str(work / "real")))
    assert Counter(row["kind"] for row in rows(work / "real", "assets")) == {"image": 8, "video": 5}
    assert not rows(work / "real", "failures")
    assert summary.accepted == Tables(work / "real").count("examples")
