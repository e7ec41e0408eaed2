"""Which files are scored: those of the folder that is given, wherever they were generated."""

import shutil

import pyarrow as pa
import pytest

from pipelines.evaluation.scoring import load_samples
from pipelines.generation.manifest import COLUMNS, SampleManifest, read_manifest
from pipelines.store import schema
from pipelines.store.files import write_parquet


@pytest.fixture
def samples(tmp_path):
    """A folder of one sample, as `nova generate` writes it."""
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "00000-0.png").write_bytes(b"original")
    row = {"sample_id": "a", "uri": str(folder / "00000-0.png"), "path": "00000-0.png", "kind": "image", "frames": 1}
    fields = pa.schema([schema.field(name) for name in COLUMNS])
    write_parquet(folder / "manifest.parquet", pa.Table.from_pylist([row], schema=fields))
    return folder


@pytest.mark.odd_input(
    "Moved and changed data", "A copied or renamed folder of samples", "Its own files are scored, never the original's."
)
@pytest.mark.parametrize("keeps_original", [True, False])
def test_samples_of_a_copy_are_its_own(samples, keeps_original):
    copy = samples.with_name("a copy%20")
    shutil.copytree(samples, copy) if keeps_original else samples.rename(copy)
    rows, failures = load_samples(str(copy))
    assert ([row["uri"] for row in rows], failures) == ([str(copy / "00000-0.png")], [])
    assert [row["uri"] for row in load_samples(copy.as_uri())[0]] == [str(copy / "00000-0.png")]


def test_a_file_that_the_copy_lacks_is_generated_again(samples):
    copy = samples.with_name("copy")
    shutil.copytree(samples, copy)
    (copy / "00000-0.png").unlink()
    assert len(SampleManifest(copy)) == 0
    assert len(SampleManifest(samples)) == 1


def test_a_continued_copy_holds_its_own_addresses(samples):
    copy = samples.with_name("copy")
    shutil.copytree(samples, copy)
    SampleManifest(copy)
    shutil.rmtree(samples)
    assert [row["uri"] for row in read_manifest(copy)] == [str(copy / "00000-0.png")]
