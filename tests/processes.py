"""Measures of child processes, and waiting, that do not depend on how large, fast or busy everything around is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

PATIENCE = 600.0
"""Seconds after which something counts as hung; no statement about speed, as machines that run tests are often busy."""

# The peak is read inside the child. `ru_maxrss` would not do: a child takes it over from the process that starts it,
# here a test session with gigabytes behind it. VmHWM belongs to the address space, and exec begins with a new one.
_PRINT_PEAK = """
import atexit, re
from pathlib import Path
def _print_peak():
    kilobytes = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(f"\\npeak {int(kilobytes) * 1024}", flush=True)
atexit.register(_print_peak)
"""


def run_and_measure_peak(program: str, arguments: Sequence[str] = ()) -> tuple[str, int]:
    """Runs Python code in a new interpreter.

    Returns:
        What it printed, and the most resident memory that it ever had, in bytes.
    """
    command = [sys.executable, "-c", _PRINT_PEAK + program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output, peak = done.stdout.rsplit("\npeak ", 1)
    return output, int(peak)


def cpu_seconds(command: Sequence[str], repetitions: int = 3) -> float:
    """Least CPU time (user and system) that a command takes; unlike wall-clock time, it excludes waiting for a CPU."""
    times = []
    for _ in range(repetitions):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{command} exits with {process.returncode}"
        times.append(usage.ru_utime + usage.ru_stime)
    return min(times)


def wait_until(condition: Callable[[], bool], message: str = "it never happened") -> None:
    """Returns as soon as a condition holds; fails when it does not hold for ten minutes."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.01)
