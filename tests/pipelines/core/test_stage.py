"""What every stage relies on: rows keep their results, bad rows are recorded, fresh rows are left as they are."""

import re

import pytest

from pipelines.core.stage import LEFT_DUE, Resources, apply
from pipelines.store import errors
from pipelines.store.errors import FatalError
from tests.pipelines.core.stages import AddOne, Doubler, rows


def test_results_go_to_their_own_rows():
    done = apply(Doubler(), None, rows(1, 5, 3))
    assert [row["motion_score"] for row in done] == [2, 10, 6]
    assert {row["motion_by"] for row in done} == {Doubler().fingerprint}


def test_a_bad_row_keeps_its_error_and_spares_the_others():
    done = apply(Doubler(), None, rows(1, -1, 3))
    assert [row["motion_score"] for row in done] == [2, None, 6]
    assert done[1]["failed_stage"] == "motion"
    assert (done[1]["failed_error"], done[1]["failed_message"]) == ("ValueError", "negative")
    assert done[1]["motion_by"] is None


def test_an_exception_in_a_batch_is_pinned_on_the_row_that_raised_it():
    done = apply(Doubler(), None, rows(1, -2, 3))
    assert [row["motion_score"] for row in done] == [2, None, 6]
    assert done[1]["failed_message"] == "the whole batch broke"


def test_failed_rows_are_left_alone_by_later_stages():
    done = apply(AddOne(), None, apply(Doubler(), None, rows(1, -1)))
    assert [row["aesthetic_mean"] for row in done] == [3, None]
    assert done[1]["failed_stage"] == "motion"


def test_fresh_rows_are_not_computed_again_and_stale_ones_are():
    first = apply(Doubler(), None, rows(1))
    fresh = apply(Doubler(), None, [{**first[0], "motion_score": 99.0}])
    assert fresh[0]["motion_score"] == 99.0
    assert apply(Doubler(factor=3.0), None, first)[0]["motion_score"] == 3.0


def test_the_fingerprint_follows_settings_and_not_resources():
    assert Doubler().fingerprint == Doubler(resources=Resources(batch_size=2)).fingerprint
    assert Doubler().fingerprint != Doubler(factor=3.0).fingerprint


def test_a_stage_that_returns_other_columns_than_it_declares_is_caught():
    class Liar(AddOne):
        def process(self, model, rows):
            return [{"aesthetic_min": 1.0} for _ in rows]

    with pytest.raises(AssertionError, match="declares"):
        apply(Liar(), None, [{"motion_score": 1.0}])


@pytest.mark.odd_input(
    "Runs",
    "A file on which a library or our own code breaks without a message",
    "The row in `failures` names the class of the error and the place in the code; no message is empty.",
)
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AssertionError(), r"internal error: AssertionError in test_stage\.py, line \d+"),
        (KeyError("width"), r"internal error: KeyError in test_stage\.py, line \d+: 'width'"),
        (RuntimeError(), r"internal error: RuntimeError in test_stage\.py, line \d+"),
        (RuntimeError("out of\n memory"), "out of memory"),
    ],
)
def test_no_failure_has_an_empty_message(error, message, monkeypatch):
    def broken(self, model, rows):
        raise error

    monkeypatch.setattr(Doubler, "process", broken)
    (row,) = apply(Doubler(), None, rows(1))
    assert row["failed_error"] == type(error).__name__
    assert re.fullmatch(message, row["failed_message"])


@pytest.fixture
def no_waits(monkeypatch):
    monkeypatch.setattr(errors, "FIRST_WAIT", 0)
    monkeypatch.setattr(errors, "LONGEST_WAIT", 0)


def test_transient_trouble_is_retried_for_the_rows_that_it_struck(no_waits, monkeypatch):
    calls = []
    original = Doubler.process

    def disturbed(self, model, rows):
        calls.append([row["frames"] for row in rows])
        results = original(self, model, rows)
        is_down = len(calls) < 3
        return [
            TimeoutError() if is_down and row["frames"] == 5 else result
            for row, result in zip(rows, results, strict=True)
        ]

    monkeypatch.setattr(Doubler, "process", disturbed)
    done = apply(Doubler(), None, rows(1, 5, 3))
    assert [row["motion_score"] for row in done] == [2, 10, 6]
    assert calls == [[1, 5, 3], [5], [5]]


def test_rows_that_trouble_outlasts_are_left_due_and_do_not_fail(no_waits, monkeypatch):
    def away(self, model, rows):
        raise ConnectionResetError("the store is away")

    monkeypatch.setattr(Doubler, "process", away)
    (row,) = apply(Doubler(), None, rows(1))
    assert (row["failed_stage"], row["failed_error"]) == ("motion", LEFT_DUE)
    assert row["motion_by"] is None
    assert apply(AddOne(), None, [row])[0]["aesthetic_mean"] is None


def test_a_broken_device_blames_no_row(monkeypatch):
    def broken(self, model, rows):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Doubler, "process", broken)
    with pytest.raises(FatalError, match="stage motion: CUDA error"):
        apply(Doubler(), None, rows(1, 2))
