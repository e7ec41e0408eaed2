"""Trouble of the infrastructure is told from bad items, by what the libraries raise in each case."""

from __future__ import annotations

import errno

import pytest

from pipelines.store import errors
from pipelines.store.errors import TransientError, is_fatal, is_transient, patiently, until_settled


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "FIRST_WAIT", 0)
    monkeypatch.setattr(errors, "LONGEST_WAIT", 0)


@pytest.mark.parametrize(
    "error",
    [
        # As pyarrow's S3 file system raises them, without a number.
        OSError("When reading information for key 'a' in bucket 'b': AWS Error NETWORK_CONNECTION: curlCode: 7"),
        OSError("AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate."),
        OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body."),
        OSError(errno.ESTALE, "Stale file handle"),
        OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
        OSError(errno.ETIMEDOUT, "Connection timed out"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("read timed out"),
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        TransientError("a.mp4: the store is away"),
    ],
)
def test_trouble_that_passes(error):
    assert is_transient(error)
    assert not is_fatal(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."),
        OSError("AWS Error EXPIRED_TOKEN during ListObjectsV2 operation: The provided token has expired."),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
)
def test_trouble_of_every_item(error):
    assert is_fatal(error)
    assert not is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("timed out at 503"),  # a text of ours, about an item
        FileNotFoundError(errno.ENOENT, "No such file or directory", "connection reset.jpg"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError("image file is truncated (12 bytes not processed)"),
        RuntimeError("shape mismatch"),
        KeyError("width"),
    ],
)
def test_faults_of_an_item(error):
    assert not is_transient(error)
    assert not is_fatal(error)


def test_the_cause_counts_below_other_errors():
    error = ValueError("cannot read")
    error.__cause__ = ConnectionResetError("reset")
    assert is_transient(error)


def test_a_call_is_tried_until_the_trouble_has_passed():
    attempts = []

    def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise TimeoutError
        return "done"

    assert patiently(flaky) == "done"
    assert len(attempts) == 3


def test_trouble_that_stays_ends_the_attempts_and_faults_are_not_repeated():
    attempts = []

    def away() -> None:
        attempts.append(1)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        patiently(away)
    assert len(attempts) == errors.ATTEMPTS
    with pytest.raises(KeyError):
        patiently(lambda: {}["missing"])
    assert until_settled(lambda: 1, lambda result: True) == 1, "the last result, disturbed or not"
