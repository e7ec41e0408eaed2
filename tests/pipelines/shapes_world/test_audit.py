"""The audit of a curated corpus counts correctly, on tables and ground truth that are written by hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipelines.shapes_world import audit
from pipelines.shapes_world.audit import CurationAudit, Match, Share
from pipelines.shapes_world.corpus import Truth
from pipelines.store.tables import Tables

CORPUS = "/somewhere/corpus"
STANDS = [{"things": [{"direction": None}]}]
MOVES = [{"things": [{"direction": None}, {"direction": "left"}]}]


def item(number: int, label: str, **facts: Any) -> dict[str, Any]:
    """A line of truth.jsonl: by default a video in which something moves."""
    truth = asdict(Truth(uri=f"media/{number:05d}.mp4", label=label, kind="video", fps=12, frames=36))
    return {**truth, "scenes": MOVES, **facts}


def asset(number: int, *others: int) -> dict[str, Any]:
    uris = [f"{CORPUS}/media/{index:05d}.mp4" for index in (number, *others)]
    return {
        "asset_id": f"a{number}", "uri": uris[0], "other_uris": uris[1:], "kind": "video", "fps": 12.0, "frames": 36,
    }  # fmt: skip


def clip(
    number: int, start: float = 0.0, end: float = 3.0, reason: str | None = None, group: str | None = None
) -> dict[str, Any]:
    return {
        "clip_id": f"c{number}-{start:g}", "asset_id": f"a{number}", "start": start, "end": end, "reason": reason,
        "accepted": reason is None, "duplicate_group": group,
    }  # fmt: skip


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    tables = Tables(tmp_path / "tables")
    tables.create()
    return tables


def compare(tables: Tables, truth: list[dict[str, Any]], clips: list[dict[str, Any]], *others: Any) -> CurationAudit:
    """Adds the asset of each clip; `others` are assets with further addresses, or numbers of files that failed."""
    assets = {row["asset_id"]: row for row in (asset(int(entry["asset_id"][1:])) for entry in clips)}
    assets |= {row["asset_id"]: row for row in others if not isinstance(row, int)}
    tables.upsert("assets", list(assets.values()))
    tables.upsert("clips", clips)
    names = [f"{CORPUS}/media/{number:05d}.mp4" for number in others if isinstance(number, int)]
    tables.append("failures", [{"stage": "ingest", "uri": name, "item": name} for name in names])
    return audit.compare(tables, truth)


def test_ugly_items_are_rejected_for_their_score_or_another_reason(tables: Tables) -> None:
    result = compare(
        tables,
        [item(number, "ugly") for number in range(5)],
        [
            clip(0, reason="aesthetic: 3.0 below 4.5"),
            clip(1, reason="motion: 0.1 below 0.5"),
            clip(2),
            clip(3, 0, 1.5, reason="aesthetic: 3.0 below 4.5"),
            clip(3, 1.5, 3),
        ],
    )
    assert (result.ugly, result.ugly_rejected) == (Share(1, 5), Share(2, 5))


def test_duplicates_are_counted_in_pairs(tables: Tables) -> None:
    """Files 0 and 1 are the same, 2 and 3 are near copies of them, written by the same steps; 4 and 5 are unrelated."""
    truth = [
        item(0, "clean"),
        item(1, "exact_duplicate", duplicate_of="media/00000.mp4"),
        item(2, "near_duplicate", duplicate_of="media/00000.mp4"),
        item(3, "near_duplicate", duplicate_of="media/00000.mp4"),
        item(4, "clean"),
        item(5, "clean"),
    ]
    clips = [clip(0, group="g"), clip(2, group="g", reason="duplicate: of c0-0"), clip(4, group="h"),
             clip(5, group="h", reason="duplicate: of c4-0")]  # fmt: skip
    result = compare(tables, truth, clips, asset(0, 1), asset(2, 3))
    assert result.exact == Match(correct=2, detected=2, expected=2)
    assert result.near == Match(correct=4, detected=5, expected=4)
    assert result.near.precision == pytest.approx(0.8)
    assert result.wrongly_rejected == {"duplicate": 1}, "5 is a copy of nothing"


def test_files_of_another_corpus_with_the_same_names_are_ignored(tables: Tables) -> None:
    truth = [item(0, "ugly"), item(1, "broken"), item(2, "exact_duplicate", duplicate_of="media/00000.mp4")]
    compare(tables, truth, [clip(0, reason="aesthetic: 3.0 below 4.5")], asset(0, 2), 1)
    complete = audit.compare(tables, truth, CORPUS)
    assert (complete.ugly, complete.broken, complete.exact) == (Share(1, 1), Share(1, 1), Match(1, 1, 1))
    other = audit.compare(tables, truth, "/elsewhere/corpus")
    assert (other.ugly, other.broken, other.exact) == (Share(0, 1), Share(0, 1), Match(0, 0, 1))


def test_two_shots_of_one_file_are_no_pair(tables: Tables) -> None:
    result = compare(tables, [item(0, "clean", cuts=[18])], [clip(0, 0, 1.5, group="g"), clip(0, 1.5, 3, group="g")])
    assert result.near == Match(0, 0, 0)
    assert result.near.precision is None


def test_broken_files_fail_and_misnamed_ones_are_read(tables: Tables) -> None:
    truth = [item(0, "broken"), item(1, "broken", kind=None, scenes=[]), item(2, "misnamed"), item(3, "misnamed")]
    result = compare(tables, truth, [clip(2)], 0, 3)
    assert (result.broken, result.misnamed) == (Share(1, 2), Share(1, 2))
    assert (result.good, result.wrongly_rejected) == (2, {"unread": 1})


def test_cuts_are_clips_edges_within_a_frame(tables: Tables) -> None:
    """The shot between two cuts of the first video was dropped as too short; the second has a false cut."""
    truth = [
        item(0, "clean", cuts=[12, 17]),
        item(1, "exact_duplicate", duplicate_of="media/00000.mp4", cuts=[12, 17]),
        item(2, "ugly", cuts=[]),
        item(3, "clean", cuts=[20]),
        item(4, "clean", cuts=[20]),
        item(5, "clean", kind="image", scenes=STANDS),
    ]
    clips = [clip(0, 0, 13 / 12), clip(0, 17 / 12, 3), clip(2, 0, 1), clip(2, 1, 3), clip(3, 0, 1.5), clip(3, 1.5, 3)]
    result = compare(tables, truth, clips, asset(0, 1))
    assert result.cuts == Match(correct=2, detected=4, expected=4)
    assert (result.cuts.precision, result.cuts.recall, result.cuts.f1) == (0.5, 0.5, 0.5)


def test_an_edge_is_right_once(tables: Tables) -> None:
    result = compare(tables, [item(0, "clean", cuts=[12])], [clip(0, 0, 11 / 12), clip(0, 1, 3)])
    assert result.cuts == Match(correct=1, detected=2, expected=1)


def test_what_the_truth_explains_is_rightly_rejected(tables: Tables) -> None:
    truth = [
        item(0, "clean", scenes=STANDS),
        item(1, "clean"),
        item(2, "near_duplicate", duplicate_of="media/00001.mp4"),
        item(3, "clean"),
        item(4, "clean"),
        item(5, "clean", scenes=STANDS),
        item(6, "clean"),
    ]
    clips = [
        clip(0, reason="motion: 0.1 below 0.5"),
        clip(1, reason="duplicate: of c2-0", group="g"),
        clip(2, group="g"),
        clip(3, reason="motion: 0.1 below 0.5"),
        clip(4, 0, 1.5, reason="aesthetic: 3.0 below 4.5"),
        clip(4, 1.5, 3, reason="motion: 0.1 below 0.5"),
        clip(5, reason="aesthetic: 3.0 below 4.5"),
        clip(6, 0, 1.5, reason="aesthetic: 3.0 below 4.5"),
        clip(6, 1.5, 3),
    ]
    result = compare(tables, truth, clips)
    assert result.good == 6
    assert result.wrongly_rejected == {"aesthetic": 2, "motion": 1}
    assert result.still == Share(1, 2)


def test_the_audit_as_text_and_as_metrics(tables: Tables) -> None:
    truth = [item(0, "ugly"), item(1, "clean"), item(2, "clean")]
    result = compare(
        tables, truth, [clip(0, reason="aesthetic: 3 below 4"), clip(1), clip(2, reason="size: 3 below 4")]
    )
    text = audit.lines(result)
    assert (
        text[0].split()
        == "ugly 1 1 of 1 (100 %) rejected for a low aesthetic score, 1 of 1 (100 %) for any reason".split()
    )
    assert text[-1].endswith("1 of 2 (50 %) wrongly rejected (size 1)")
    assert "0 of 0 among the failures" in text[3]
    logged = audit.metrics(result)
    assert logged["planted_ugly_rejected_for_beauty"] == 1.0
    assert (logged["planted_good_wrongly_rejected"], logged["planted_good_rejected_for_size"]) == (0.5, 1)
    assert "planted_cuts_f1" not in logged, "there was no cut to find"


def test_truth_is_read_as_it_is_written(tmp_path: Path) -> None:
    from pipelines.shapes_world.corpus import write_corpus

    write_corpus(tmp_path, items=3, seed=1)
    assert [row["uri"][:11] for row in audit.read_truth(tmp_path / "truth.jsonl")] == [
        "media/00000", "media/00001", "media/00002",
    ]  # fmt: skip
