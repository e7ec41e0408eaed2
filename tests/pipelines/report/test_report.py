"""The report: one file that needs no network, says what happened, and cannot be broken by what people write."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipelines.curation.summary import Summary
from pipelines.report import charts
from pipelines.report.curation import curation_section
from pipelines.report.page import Heading, Section, SectionBlock, Table, write_report
from pipelines.report.samples import SamplesSection, sample_group
from pipelines.report.scores import ScoresSection, score_group
from pipelines.report.training import training_section
from pipelines.store.tables import Tables


@pytest.fixture
def clips(tmp_path: Path) -> Tables:
    from pipelines.media.write import write_image

    write_image(tmp_path / "a.png", np.full((64, 64, 3), 90, np.uint8))
    tables = Tables(tmp_path / "tables")
    tables.create()
    base = {
        "uri": str(tmp_path / "a.png"), "kind": "image", "start": 0.0, "end": 0.0, "motion_score": 0.0,
        "caption_short": None, "reason": None,
    }  # fmt: skip
    tables.upsert(
        "clips",
        [
            {**base, "clip_id": "a", "aesthetic_mean": 6.0, "accepted": True, "caption_short": "<script>x</script>"},
            {**base, "clip_id": "b", "aesthetic_mean": 3.0, "accepted": False, "reason": "aesthetic: 3.0 below 4.5"},
            {**base, "clip_id": "c", "aesthetic_mean": 7.0, "accepted": False, "reason": "duplicate: of a",
             "uri": str(tmp_path / "gone.png")},
        ],
    )  # fmt: skip
    failure = {"stage": "ingest", "item": "x/bad.mp4", "uri": "x/bad.mp4", "message": "the file is empty", "attempt": 1}
    tables.append("failures", [failure])
    return tables


def test_the_funnel_counts_what_each_reason_took(clips: Tables, tmp_path: Path) -> None:
    section = curation_section(clips, Summary(thresholds={"aesthetic image": 4.5}))
    assert section.tiles == {"media read": 0, "clips": 3, "accepted": 1, "failures": 1}
    assert [(picture.verdict, picture.image is None) for picture in section.rejected] == [
        ("aesthetic: 3.0 below 4.5", False), ("duplicate: of a", True),
    ]  # fmt: skip
    assert section.failures.rows == [("ingest", "bad.mp4", "the file is empty")]
    assert "not rejected for aesthetic" in section.funnel


def test_pictures_are_read_where_their_content_is(clips: Tables, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    asset_id = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    asset = {"uri": str(tmp_path / "gone.png"), "other_uris": [str(path)], "bytes": path.stat().st_size}
    clips.upsert("assets", [{"asset_id": asset_id, **asset}, {"asset_id": "0" * 32, **asset}])
    clips.upsert("clips", [{"clip_id": "c", "asset_id": asset_id}, {"clip_id": "a", "asset_id": "0" * 32}])
    section = curation_section(clips, Summary())
    assert [picture.image is None for picture in section.rejected] == [False, False]
    assert section.accepted[0].image is None, "another content"


def test_the_page_is_whole_and_escapes_what_people_write(clips: Tables, tmp_path: Path) -> None:
    section = curation_section(clips, Summary())
    page = write_report(tmp_path / "report.html", title="A & B", notes=["untrained"], sections=[section]).read_text()
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "<script" not in page
    assert "A &amp; B" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page), "the page asks for something from outside"
    assert page.count("data:image/jpeg;base64,") == 2


def test_curves_hold_every_entry(tmp_path: Path) -> None:
    entries = [{"step": step, "loss": 2.0 / step, "loss_first_frame": 1.0, "grad_norm": 1.0, "lr": 1e-3,
                "samples_per_second": 3.0} for step in (1, 2, 3)]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    section = training_section(tmp_path)
    assert section is not None
    assert section.tiles == {"steps": 3, "last loss": "0.667"}
    assert len(section.curves) == 4
    assert training_section(tmp_path / "nothing") is None


def test_samples_and_scores_of_a_run(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"uri": str(tmp_path / "gone.png"), "kind": "image", "prompt": "a dog", "seeds": [3], "frames": 1,
           "fps": None, "height": 64, "width": 64, "seconds": 0.5}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "manifest.parquet")
    picture = sample_group(tmp_path, "Images").pictures[0]
    assert (picture.text, picture.verdict, picture.image) == ("a dog", "the file is gone", None)
    summary = {
        "scores": {"clip_alignment": {"value": 0.25, "samples": 2}}, "samples": 2, "failed": [],
        "provenance": {"checkpoint": "run/model"},
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert score_group(tmp_path, "Images").table.rows == [("clip_alignment", "0.2500", 2)]
    sections = [
        SamplesSection(groups=[sample_group(tmp_path, "Images")]),
        ScoresSection(groups=[score_group(tmp_path, "Images")]),
    ]
    page = write_report(tmp_path / "report.html", title="Run", sections=sections).read_text()
    assert '<span class="bad">the file is gone</span>' in page
    assert '<td class="number">0.2500</td>' in page
    assert "<summary>Where these scores come from</summary>" in page


def test_a_section_of_another_package_is_rendered_in_its_place(tmp_path: Path) -> None:
    class Labels(Section):
        name, title = "labels", "Labels & more"

        def blocks(self) -> list[SectionBlock]:
            return [Heading("By hand"), Table(("label", "count"), [("<b>dog</b>", 3)], frozenset({1}))]

    sections = [Labels(source="labels.csv", tiles={"labels": 3}), None]
    page = write_report(tmp_path / "report.html", title="Run", sections=sections).read_text()
    assert '<a href="#labels">labels</a>' in page
    assert '<h2 id="labels">Labels &amp; more</h2>' in page
    assert '<p class="faint">labels.csv</p>' in page
    assert '<div class="tile"><b>3</b>labels</div>' in page
    assert "<td>&lt;b&gt;dog&lt;/b&gt;</td>" in page


def test_charts_follow_the_pages_colours() -> None:
    drawn = charts.histogram("Score", np.array([1.0, 2.0]), np.array([0.5]), [0.8])
    assert drawn.startswith("<svg")
    assert "currentColor" in drawn
    assert charts.INK not in drawn
    assert charts.histogram("Score", np.array([]), np.array([])).startswith("<svg"), "no clip has the score yet"
