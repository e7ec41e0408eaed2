"""A scheduler learns from the exit status what to do; a fault of the program keeps its traceback."""

from __future__ import annotations

import errno

import pytest

from jobs import cli, exit_codes
from pipelines.store.errors import FatalError, LeftDueError, TooManyFailuresError, TransientError
from pipelines.store.locks import BusyError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("--tables is missing"), 2),
        (BusyError("another run"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file"), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (TooManyFailuresError("400 of 500 items failed"), 4),
        (LeftDueError("13 items are left due"), 5),
        (FatalError("stage motion: CUDA error"), 5),
        (TransientError("cannot read s3://bucket"), 5),
        (ConnectionResetError("reset"), 5),
    ],
)
def test_errors_that_someone_can_act_on_are_one_line(error, status, monkeypatch, capsys):
    def fails(arguments):
        raise error

    monkeypatch.setattr(cli, "run", fails)
    monkeypatch.delenv("NOVA_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nova: error: ")


def test_a_fault_of_the_program_keeps_its_traceback():
    assert exit_codes.of_error(KeyError("width")) is None
    assert exit_codes.of_error(RuntimeError("out of memory")) is None
