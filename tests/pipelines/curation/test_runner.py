"""What a run records: failures of items, and nothing where the infrastructure failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.curation import runner
from pipelines.media import probe
from pipelines.store import errors
from pipelines.store.errors import TooManyFailuresError
from tests.local_curation import COLOURS, LocalCuration, write_colour


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "FIRST_WAIT", 0)
    monkeypatch.setattr(errors, "LONGEST_WAIT", 0)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for index in range(9):
        write_colour(tmp_path / "media" / f"{index}.png", list(COLOURS)[index % 3])
        # Each has a content of its own.
        with (tmp_path / "media" / f"{index}.png").open("ab") as file:
            file.write(bytes([index]))
    return tmp_path / "media"


@pytest.mark.odd_input(
    "Runs",
    "An object store or a disk that is away for a while",
    "Reading is tried again; what stays out of reach is left due, is no failure, and is done by the next run.",
)
@pytest.mark.parametrize("reads", [0, 13])
def test_an_outage_leaves_items_due(tmp_path, media, monkeypatch, reads):
    original, count = probe.open_stream, [0]

    def away(uri):
        count[0] += 1
        if count[0] > reads:
            raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7")
        return original(uri)

    curation = LocalCuration(tmp_path / "tables")
    with monkeypatch.context() as outage:
        outage.setattr(probe, "open_stream", away)
        summary = curation.run(media)
    assert summary.left_due
    assert not summary.failures
    assert curation.rows("failures") == []
    assert len(curation.examples()) < 9
    summary = curation.run(media)
    assert (len(curation.examples()), len(curation.rows("assets"))) == (9, 9)
    assert not summary.left_due


def test_a_run_ends_where_most_items_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "MIN_ROWS", 4)
    for index in range(6):
        (tmp_path / "media").mkdir(exist_ok=True)
        (tmp_path / "media" / f"{index}.png").write_bytes(b"no picture" * (index + 1))
    curation = LocalCuration(tmp_path / "tables")
    with pytest.raises(TooManyFailuresError, match=r"6 of 6 items failed, more than commits.max_failed_share=0.3"):
        curation.run(tmp_path / "media")
    assert curation.rows("failures") == [], "they stay due until the cause is known"
