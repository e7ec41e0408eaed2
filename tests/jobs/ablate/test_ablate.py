"""`nova ablate`: variants change their settings alone, results are reused, and significant differences are reported."""

from __future__ import annotations

import inspect
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import recipes, settings
from jobs.ablate import ablation as ablation
from jobs.ablate import job as ablate
from jobs.ablate import norms as ablate_norms
from jobs.ablate import plots as ablate_plots
from jobs.ablate import table as ablate_table
from jobs.ablate.table import Result
from jobs.ablate.variants import NORMS, SWEEPS, VARIANTS, changed_settings, select_variants
from jobs.recipes.registry import config_of
from jobs.train.config import TrainConfig
from pipelines.curation.filters import Filters
from pipelines.shapes_world.prompts import ShapesBenchmark
from pipelines.store.tables import Tables

LITTLE = ShapesBenchmark(tasks=("single_object", "speed"), samples=1, per_level=1, motion_levels=(1.0, 8.0))


def config(**changes: Any) -> ablate.AblateConfig:
    base = config_of("debug", "ablate")
    return replace(base, shapes=LITTLE, **changes)


# Variants


def test_each_variant_changes_its_settings_alone() -> None:
    recipe = config_of("demo", "ablate")
    base = replace(recipe, curate=replace(recipe.curate, decide=Filters(keep_aesthetic=0.8))).base
    changes = {name: changed_settings(make(base), base) for name, make in VARIANTS.items()}
    assert [name for name, change in changes.items() if not change] == ["full", "post_norm", "flow"]
    assert changes["no_temporal"] == "train.ablate=no_temporal"
    assert changes["raw_captions"] == "curate.text.captions=source"
    assert changes["no_aesthetic_filter"] == "curate.decide.keep_aesthetic=None"
    assert changes["ddpm_more_steps"] == (
        "train.noise.schedule=ddpm, train.noise.shift=1.0, generate.sampling.diffusion_steps=100"
    )
    assert changes["set_steps_half"] == "generate.sampling.set_steps=16"
    assert changes["diffusion_steps_double"] == "generate.sampling.diffusion_steps=50"
    norms = [VARIANTS[name](base).train.architecture().norm for name in NORMS]
    assert norms == ["pre", "post", "post_add"]


@pytest.mark.parametrize("recipe", recipes.NAMES)
def test_every_recipe_can_be_ablated(recipe: str) -> None:
    base = config_of(recipe, "ablate").base
    for make in VARIANTS.values():
        make(base).train.architecture()
        assert make.__doc__


def test_the_help_names_every_variant() -> None:
    text = inspect.getsource(ablate.AblateConfig)
    assert all(name in text or name.startswith(SWEEPS) for name in VARIANTS)
    assert all(sweep in text for sweep in SWEEPS)


def test_variants_are_selected_by_name_and_sweeps_completely() -> None:
    assert select_variants("") == list(VARIANTS)
    assert select_variants("set_steps, no-temporal") == [
        "full", "no_temporal", "set_steps_quarter", "set_steps_half", "set_steps_double",
    ]  # fmt: skip
    assert select_variants("ddpm") == ["full", "ddpm"]
    assert all(len(select_variants(sweep)) == 4 for sweep in SWEEPS)


# The command


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is trained and judged."""
    from jobs.train import job as train

    counts: Counter[str] = Counter()

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            counts[name] += 1
            return real(*arguments, **named)

        return call

    monkeypatch.setattr(train, "train", counted("trained", train.train))
    monkeypatch.setattr(ablate, "_judge", counted("judged", ablate._judge))
    return counts


@pytest.mark.slow
def test_two_variants(work: Path, curated: Path, calls: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    output = work / "ablation"
    request = config(tables=str(curated), output=str(output), only="no_motion,set_steps_half,flow", steps=4)
    assert ablate.run(request) == 0
    assert calls == {"trained": 2, "judged": 3}
    printed = capsys.readouterr().out
    table = (output / "ablation.md").read_text()
    assert table in printed
    assert "- **no_motion** (train.ablate=no_motion): " in table
    assert "The same as `full` in this recipe: flow." in table
    result = pq.read_table(output / "ablation.parquet").to_pandas()
    assert list(result.variant.unique()) == ["full", "no_motion", "flow", "set_steps_half"]
    assert {"loss_first_frame", "loss_later_frames", "single_object", "speed", "motion", "seconds_per_image",
            "seconds_per_video"} <= set(result.metric)  # fmt: skip
    assert json.loads((output / "results" / "full-0.json").read_text())["samples"]["single_object"] > 0
    first = result[result.metric == "loss_first_frame"].set_index("variant").value
    assert first["full"] == first["set_steps_half"] != first["no_motion"]
    for name in ("losses", "scores", "sampling"):
        assert (output / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    stored = json.loads((output / "mlflow.json").read_text())
    client = MlflowClient(tracking_uri=stored["uri"])
    parent = client.get_run(stored["run_id"])
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert Counter(run.data.tags["nova.command"] for run in children) == {"train": 2, "benchmark": 3}
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert parent.data.metrics["no_motion/loss_first_frame"] == first["no_motion"]
    artifacts = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"ablation.md", "ablation.parquet", "ablation.json", "plots"} <= artifacts

    (output / "results" / "no_motion-0.json").unlink()  # as if it was killed while it was judged
    calls.clear()
    assert ablate.run(request) == 0
    assert calls == {"judged": 1}
    assert json.loads((output / "mlflow.json").read_text()) == stored
    with pytest.raises(ValueError, match=r"was started with steps=4, not 5; give another --output"):
        ablate.run(replace(request, steps=5))


@pytest.mark.slow
def test_tables_that_are_curated_with_other_settings(work: Path, curated: Path) -> None:
    """Where most clips have a low aesthetic score, the variant without that filter trains on all but duplicates."""
    from jobs.curate import recurate

    strict = work / "strict_tables"
    shutil.copytree(curated, strict)
    base = config_of("debug", "ablate")
    curate = replace(base.curate, decide=Filters(keep_aesthetic=0.3))
    recurate(replace(curate, tables=str(strict)))
    accepted = Tables(strict).count("examples")
    request = config(
        tables=str(strict), output=str(work / "otherwise"), only="no_aesthetic_filter,raw_captions", steps=4
    )
    with pytest.raises(ValueError, match="was curated by other settings"):
        ablation.plan(request)
    prepared = ablation.plan(replace(request, curate=curate))
    address = prepared.tables("no_aesthetic_filter", "cafe")
    assert prepared.tables("full", "cafe") == f"{strict}@{Tables(strict).version('examples')}"
    assert address == f"{work}/otherwise/tables/no_aesthetic_filter@{Tables(address.split('@')[0]).version('examples')}"
    assert Tables(address.split("@")[0]).count("examples") == Tables(curated).count("examples") > accepted
    assert prepared.tables("no_aesthetic_filter", "cafe") == address
    with pytest.raises(ValueError, match="is not the newest"):
        ablation.plan(replace(request, curate=curate, tables=f"{strict}@1"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only": "no_tempora"}, "--only no_tempora: no such variant; did you mean no_temporal"),
        ({"tables": ""}, "--tables is missing"),
        ({"output": ""}, "--output is missing"),
        ({"tables": "NOWHERE"}, "run `nova curate"),
        ({"output": "OTHERS"}, "holds other files"),
        ({"output": "FILE"}, "is a file"),
        ({"train": replace(config_of("debug", "train"), preset="bench")}, "preset bench takes 256"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(
    changes: dict[str, Any], message: str, curated: Path, tmp_path: Path
) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis.txt").write_text("mine")
    places = {"NOWHERE": tmp_path / "no", "OTHERS": tmp_path / "others", "FILE": tmp_path / "others" / "thesis.txt"}
    arguments = {key: str(places[value]) if value in places else value for key, value in changes.items()}
    with pytest.raises(ValueError, match=message) as caught:
        ablate.run(config(**{"tables": str(curated), "output": str(tmp_path / "out")} | arguments))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="--seeds 0: at least 1"):
        config(seeds=0)
    with pytest.raises(ValueError, match="give them rising"):
        config(rates=(1e-2, 1e-3))


# Norm positions


@pytest.mark.slow
def test_variances_of_a_training(trained: Path, curated: Path) -> None:
    from tests.conftest import train_config

    version = Tables(curated).version("examples")
    result = ablate_norms.variances(trained, train_config(tables=f"{curated}@{version}"))
    assert {when: {name: len(values) for name, values in encoders.items()} for when, encoders in result.items()} == {
        "start": {"temporal": 2, "spatial": 4}, "end": {"temporal": 2, "spatial": 4},
    }  # fmt: skip
    assert result["start"] != result["end"]


SPIKING = 0.02


def test_rates_rise_up_to_the_first_that_is_not_stable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One loss falls, one rises, one recovers from a spike, one is not finite; each rate is run once."""
    from jobs.train import job as train

    rates_run = []

    def fake(request: TrainConfig) -> None:
        lr = request.optimizer.lr
        rates_run.append(lr)
        assert (request.steps, request.optimizer.warmup_steps, request.log_every) == (40, 5, 1)
        assert request.parallel.max_failures == 0
        if lr > 0.05:
            raise RuntimeError("a worker failed") from RuntimeError("the loss is nan at step 7; lower lr or …")
        Path(request.run).mkdir(parents=True)
        losses = [1.0 + (lr - 0.01) * step for step in range(20)]
        if lr == SPIKING:
            losses = [1.0, 50.0, 9.0, *[0.9] * 17]
        lines = [json.dumps({"step": step, "loss_first_frame": loss}) for step, loss in enumerate(losses)]
        (Path(request.run) / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(train, "train", fake)
    base = config_of("debug", "train")
    for rates, best in (
        ((1e-3, 3e-3, 0.1), 3e-3), ((1e-3, 3e-3, 0.03, 0.1), 3e-3), ((1e-3, SPIKING, 0.03), 1e-3), ((0.1,), None)
    ):  # fmt: skip
        trials = ablate_norms.try_rates(base, rates, 40, tmp_path)
        assert ablate_norms.largest_stable(trials) == best
        assert [trial["stable"] for trial in trials] == [trial["lr"] <= 3e-3 for trial in trials]
        assert not trials[-1]["stable"]
    assert rates_run == [1e-3, 3e-3, 0.1, 0.03, SPIKING]


def test_other_errors_do_not_count_as_instability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.train import job as train

    def fail(request: TrainConfig) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        ablate_norms.try_rates(config_of("debug", "train"), (1e-3,), 20, tmp_path)


# The table


CHANGES = {"full": "", "no_temporal": "train.ablate=no_temporal", "ddpm": "train.noise.schedule=ddpm", "flow": ""}
NORM = {
    "variance": {when: {"temporal": [1.0, 2.0], "spatial": [1.0, 3.0]} for when in ("start", "end")},
    "rates": [
        {"lr": 1e-3, "start": 2.0, "end": 1.0, "stable": True},
        {"lr": 3e-3, "start": None, "end": None, "stable": False},
    ],
    "largest_stable_lr": 1e-3,
}


@pytest.fixture
def results(tmp_path: Path) -> list[Result]:
    run = tmp_path / "runs" / "full-0"
    run.mkdir(parents=True)
    lines = [
        {"step": step, "loss_first_frame": 10.0 / step, **({"loss_later_frames": 5.0} if step != 10 else {})}
        for step in range(1, 21)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = {
        "full": [(1.0, 0.8, 0.5), (1.2, 0.8, 0.5)],
        "no_temporal": [(1.1, 0.2, 0.505), (1.25, 0.4, 0.505)],
        "ddpm": [(0.1, 0.8, 0.5), (0.1, 0.8, 0.5)],
        "flow": [(1.0, 0.8, 0.5), (1.2, 0.8, 0.5)],
    }
    return [
        Result(name, seed, run, {"loss_first_frame": loss, "direction": score, "colors": same})
        for name, values in scores.items()
        for seed, (loss, score, same) in enumerate(values)
    ]


def test_losses_are_means_over_the_last_tenth(results: list[Result], tmp_path: Path) -> None:
    assert ablate_table.losses(results[0].run, 20) == {
        "loss_first_frame": pytest.approx((10 / 19 + 10 / 20) / 2), "loss_later_frames": 5.0,
    }  # fmt: skip
    assert ablate_table.losses(results[0].run, 1000) == {"loss_first_frame": 0.5, "loss_later_frames": 5.0}
    assert ablate_table.losses(tmp_path, 20) == {}


def test_significant_differences_exceed_chance(results: list[Result]) -> None:
    summary = ablate_table.summarise(results, CHANGES)
    result = summary["no_temporal"]
    assert result["direction"].is_significant
    assert result["direction"].difference == pytest.approx(-0.5)
    assert not result["loss_first_frame"].is_significant, "less than the spread over the seeds"
    assert not result["colors"].is_significant, "too small to report"
    assert summary["ddpm"]["loss_first_frame"].difference is None, "the regression targets differ"
    assert summary["ddpm"]["direction"].difference == 0


@pytest.mark.parametrize(("samples", "moved"), [(24, False), (96, True)])
def test_few_samples_are_not_significant(samples: int, moved: bool, tmp_path: Path) -> None:
    """A difference of 0.4 and 0.6 may be chance with 24 samples, but not with 96."""
    scores = {"full": 0.4, "no_temporal": 0.6}
    listed = [Result(name, 0, tmp_path, {"colors": value}, {"colors": samples}) for name, value in scores.items()]
    result = ablate_table.summarise(listed, CHANGES)["no_temporal"]["colors"]
    assert result.noise == pytest.approx(2 * (0.25 * 2 / samples) ** 0.5)
    assert result.is_significant == moved


def test_the_table_lists_significant_differences(results: list[Result], tmp_path: Path) -> None:
    path = ablate_table.write(tmp_path, results, CHANGES, {"post_norm": NORM})
    text = path.read_text()
    assert "- **no_temporal** (train.ablate=no_temporal): direction 0.8 → 0.3 (-0.5, -62 %)\n" in text
    assert "- **ddpm** (train.noise.schedule=ddpm): nothing\n" in text
    assert "2 seeds" in text
    assert "The same as `full` in this recipe: flow." in text
    assert "| no_temporal | 1.18 ± 0.11 (+0.075) | 0.3 ± 0.14 (-0.5) |" in text
    assert "| post_norm | 0.001 | 1 → 2 | 1 → 2 | 1 → 3 | 1 → 3 |" in text
    stored = json.loads((tmp_path / "ablation.json").read_text())
    assert stored["variants"]["no_temporal"]["metrics"]["direction"]["moved"]
    assert stored["norms"] == {"post_norm": NORM}
    rows = pq.read_table(tmp_path / "ablation.parquet").to_pylist()
    assert len(rows) == 24
    assert rows[0] == {"variant": "full", "changes": "", "seed": 0, "metric": "loss_first_frame", "value": 1.0}


def test_plots_of_every_kind(results: list[Result], tmp_path: Path) -> None:
    quick = [replace(result, variant="set_steps_half") for result in results[:2]]
    changes = CHANGES | {"set_steps_half": "generate.sampling.set_steps=2"}
    folder = ablate_plots.draw(tmp_path, [*results, *quick], changes, {"post_norm": NORM})
    assert {path.name for path in folder.iterdir()} == {"losses.png", "scores.png", "sampling.png", "norms.png"}
    assert all(path.stat().st_size > 5000 for path in folder.iterdir())


def test_the_config_can_be_shown_and_set() -> None:
    shown = settings.show(config_of("demo", "ablate")).splitlines()
    assert "generate.sampling.set_steps=32" in shown
    assert "train.steps=100" in shown
