"""`nova demo`: every part of the loop leaves what it should, under one MLflow run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import cli, demo
from jobs.recipes.registry import config_of
from jobs.runtime import tracking
from pipelines.shapes_world import audit
from pipelines.store.tables import Tables


@pytest.mark.slow
@pytest.mark.essential
def test_the_whole_loop(
    work: Path, ray_session: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    base = config_of("debug", "demo")
    output = work / "demo"
    wanted = replace(
        base,
        output=str(output),
        items=24,
        prompts=1,
        train=replace(base.train, steps=4, log_every=2),
        shapes=replace(base.shapes, samples=2),
    )
    assert demo.run(wanted) == 0
    said = capsys.readouterr().out
    assert "small models that know drawn shapes and nothing else" in said
    assert "NOVA is trained from scratch for 4 steps" in said
    assert f"report          {output}/report.html" in said
    page = (output / "report.html").read_text()
    for section in ("curation", "training", "samples", "scores"):
        assert f'id="{section}"' in page
    for name in ("images", "videos", "from_image"):
        assert (output / "samples" / name / "contact_sheet.png").exists()
        assert (output / "scores" / name / "scores.parquet").exists()
    assert Tables(output / "tables").count("failures") > 0, "the corpus has broken files"
    found = audit.compare(Tables(output / "tables"), audit.read_truth(output / "corpus" / "truth.jsonl"))
    assert (found.broken.value, found.exact.f1, found.misnamed.value) == (1.0, 1.0, None)
    for name, _, text in audit.rows(found):
        assert text in said
        assert f"<td>{name}</td>" in page

    uri = next(line.split("--backend-store-uri ")[1] for line in said.splitlines() if "runs in MLflow" in line)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run for run in runs if run.data.tags["nova.command"] == "demo")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert Counter(run.data.tags["nova.command"] for run in children) == {
        "curate": 1, "train": 1, "generate": 3, "evaluate": 3, "benchmark": 1,
    }  # fmt: skip
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert parent.data.metrics["planted_broken_failed"] == 1.0

    # `nova curate` compares its tables with the ground truth of a corpus as well, unless files were left out, which
    # would count as missed.
    monkeypatch.chdir(output)
    command = ["curate", "--recipe", "debug", "--input", "corpus/manifest.jsonl", "--tables", "tables"]
    assert cli.run(command) == 0
    printed = capsys.readouterr().out
    assert "ground truth of the corpus" in printed
    page = (output / "tables" / "report.html").read_text()
    for name, _, text in audit.rows(found):
        assert name in printed
        assert text in printed
        assert f"<td>{name}</td>" in page
    assert cli.run([*command, "--limit", "3"]) == 0
    assert "ground truth of the corpus" not in capsys.readouterr().out


def test_a_folder_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        demo.run(replace(config_of("debug", "demo"), output=str(tmp_path)))
    with pytest.raises(ValueError, match="at least 20"):
        replace(config_of("debug", "demo"), items=3)
