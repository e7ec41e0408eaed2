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


@pytest.mark.odd_input(
    "Runs",
    "Two commands that write to one folder at once",
    "The second one is refused, and names the option to change.",
)
def test_every_folder_has_one_writer(tmp_path):
    with exclusive(tmp_path / "run", option="--run"):
        message = r"^another run \(writer\) is writing to .*run; wait until it ends, or give another --run$"
        with pytest.raises(BusyError, match=message), exclusive(tmp_path / "run", option="--run"):
            pass
        with exclusive(tmp_path / "run" / "samples"), exclusive(tmp_path):  # folders above and below are others
            pass
        # A path and its address are one folder.
        with pytest.raises(BusyError), exclusive((tmp_path / "run").as_uri()):
            pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", "/proc/run"):
        with (
            pytest.raises(ValueError, match=r"^cannot write to --run .*run: .*; give another --run$"),
            exclusive(place, option="--run"),
        ):
            pass
