"""The lock that prevents two runs from writing the same tables."""

import subprocess
import sys

import pytest

from pipelines.store.locks import BusyError, exclusive

HOLD = """
import sys, time
from pipelines.store.locks import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("remote", [False, True])
def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path, remote):
    root = f"s3://bucket/{tmp_path.name}" if remote else str(tmp_path / "tables")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, root], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="another run"), exclusive(root):
            pass
        with exclusive(root, "refresh"):  # another purpose is another lock
            pass
    finally:
        holder.kill()
        holder.wait()
    with exclusive(root):
        pass
