"""What curation found of a corpus: counted rightly on tables and truth that are made by hand."""

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
    """A line of truth.jsonl: a video that moves, where nothing else is said."""
    truth = asdict(Truth(uri=f"media/{number:05d}.mp4", label=label, kind="video", fps=12, frames=36))
    return {**truth, "scenes": MOVES, **facts}


def asset(number: int, *others: int) -> dict[str, Any]:
    uris = [f"{CORPUS}/media/{each:05d}.mp4" for each in (number, *others)]
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
    made = Tables(tmp_path / "tables")
    made.create()
    return made


def compare(tables: Tables, truth: list[dict[str, Any]], clips: list[dict[str, Any]], *others: Any) -> CurationAudit:
    """Each clip's asset is there; `others` are assets with further addresses, or numbers of files that failed."""
    assets = {row["asset_id"]: row for row in (asset(int(each["asset_id"][1:])) for each in clips)}
    assets |= {row["asset_id"]: row for row in others if not isinstance(row, int)}
    tables.upsert("assets", list(assets.values()))
    tables.upsert("clips", clips)
    names = [f"{CORPUS}/media/{each:05d}.mp4" for each in others if isinstance(each, int)]
    tables.append("failures", [{"stage": "ingest", "uri": name, "item": name} for name in names])
    return audit.compare(tables, truth)


def test_ugly_items_are_found_by_beauty_or_otherwise(tables: Tables) -> None:
    found = compare(
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
    assert (found.ugly, found.ugly_rejected) == (Share(1, 5), Share(2, 5))


def test_duplicates_are_counted_in_pairs(tables: Tables) -> None:
    """Files 0 and 1 are the same, 2 and 3 near to them and made alike; 4 and 5 have nothing in common."""
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
    found = compare(tables, truth, clips, asset(0, 1), asset(2, 3))
    assert found.exact == Match(correct=2, detected=2, expected=2)
    assert found.near == Match(correct=4, detected=5, expected=4)
    assert found.near.precision == pytest.approx(0.8)
    assert found.wrongly_rejected == {"duplicate": 1}, "5 is a copy of nothing"


def test_files_of_another_corpus_with_the_same_names_are_not_taken_for_ours(tables: Tables) -> None:
    truth = [item(0, "ugly"), item(1, "broken"), item(2, "exact_duplicate", duplicate_of="media/00000.mp4")]
    compare(tables, truth, [clip(0, reason="aesthetic: 3.0 below 4.5")], asset(0, 2), 1)
    ours = audit.compare(tables, truth, CORPUS)
    assert (ours.ugly, ours.broken, ours.exact) == (Share(1, 1), Share(1, 1), Match(1, 1, 1))
    other = audit.compare(tables, truth, "/elsewhere/corpus")
    assert (other.ugly, other.broken, other.exact) == (Share(0, 1), Share(0, 1), Match(0, 0, 1))


def test_two_shots_of_one_file_are_no_pair(tables: Tables) -> None:
    found = compare(tables, [item(0, "clean", cuts=[18])], [clip(0, 0, 1.5, group="g"), clip(0, 1.5, 3, group="g")])
    assert found.near == Match(0, 0, 0)
    assert found.near.precision is None


def test_broken_files_fail_and_misnamed_ones_are_read(tables: Tables) -> None:
    truth = [item(0, "broken"), item(1, "broken", kind=None, scenes=[]), item(2, "misnamed"), item(3, "misnamed")]
    found = compare(tables, truth, [clip(2)], 0, 3)
    assert (found.broken, found.misnamed) == (Share(1, 2), Share(1, 2))
    assert (found.good, found.wrongly_rejected) == (2, {"unread": 1})


def test_cuts_are_clips_edges_within_a_frame(tables: Tables) -> None:
    """Of the first video the shot between two cuts was dropped as too short; the second is cut where nothing is."""
    truth = [
        item(0, "clean", cuts=[12, 17]),
        item(1, "exact_duplicate", duplicate_of="media/00000.mp4", cuts=[12, 17]),
        item(2, "ugly", cuts=[]),
        item(3, "clean", cuts=[20]),
        item(4, "clean", cuts=[20]),
        item(5, "clean", kind="image", scenes=STANDS),
    ]
    clips = [clip(0, 0, 13 / 12), clip(0, 17 / 12, 3), clip(2, 0, 1), clip(2, 1, 3), clip(3, 0, 1.5), clip(3, 1.5, 3)]
    found = compare(tables, truth, clips, asset(0, 1))
    assert found.cuts == Match(correct=2, detected=4, expected=4)
    assert (found.cuts.precision, found.cuts.recall, found.cuts.f1) == (0.5, 0.5, 0.5)


def test_an_edge_is_right_once(tables: Tables) -> None:
    found = compare(tables, [item(0, "clean", cuts=[12])], [clip(0, 0, 11 / 12), clip(0, 1, 3)])
    assert found.cuts == Match(correct=1, detected=2, expected=1)


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
    found = compare(tables, truth, clips)
    assert found.good == 6
    assert found.wrongly_rejected == {"aesthetic": 2, "motion": 1}
    assert found.still == Share(1, 2)


def test_what_is_said_of_it(tables: Tables) -> None:
    truth = [item(0, "ugly"), item(1, "clean"), item(2, "clean")]
    found = compare(tables, truth, [clip(0, reason="aesthetic: 3 below 4"), clip(1), clip(2, reason="size: 3 below 4")])
    said = audit.lines(found)
    assert (
        said[0].split()
        == "ugly 1 1 of 1 (100 %) rejected for a low aesthetic score, 1 of 1 (100 %) for any reason".split()
    )
    assert said[-1].endswith("1 of 2 (50 %) wrongly rejected (size 1)")
    assert "0 of 0 among the failures" in said[3]
    logged = audit.metrics(found)
    assert logged["planted_ugly_rejected_for_beauty"] == 1.0
    assert (logged["planted_good_wrongly_rejected"], logged["planted_good_rejected_for_size"]) == (0.5, 1)
    assert "planted_cuts_f1" not in logged, "there was no cut to find"


def test_truth_is_read_as_it_is_written(tmp_path: Path) -> None:
    from pipelines.shapes_world.corpus import write_corpus

    write_corpus(tmp_path, items=3, seed=1)
    assert [row["uri"][:11] for row in audit.read_truth(tmp_path / "truth.jsonl")] == [
        "media/00000", "media/00001", "media/00002",
    ]  # fmt: skip
