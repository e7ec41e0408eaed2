"""`nova ablate`: measures the effect of each component of the recipe by trainings without it.

    nova ablate --recipe debug --tables work/tables --output work/ablation --only no_temporal,set_steps --steps 200

Trains each variant of `jobs/ablate/variants.py` for a few steps under one MLflow run, scores it by the benchmark
`shapes`, and reports what differs from the complete recipe. A second run resumes the first.

    OUTPUT/ablation.md        the differences; ablation.json and ablation.parquet hold the numbers
    OUTPUT/plots/             losses, scores, sampling, norms
    OUTPUT/runs/NAME-SEED/    the trainings
    OUTPUT/judged/NAME-SEED/  samples and scores of the benchmark
    OUTPUT/tables/NAME/       tables of variants that change the curation
    OUTPUT/rates/NAME/        short trainings at rising learning rates
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from jobs import settings
from jobs.ablate import norms, plots, table
from jobs.ablate.ablation import Ablation, claim, plan, read
from jobs.ablate.config import AblateConfig
from jobs.ablate.table import Result
from jobs.ablate.variants import NORMS
from jobs.benchmark import run_benchmark
from jobs.runtime import tracking
from jobs.shapes_world.benchmark import ShapesBenchmarkConfig
from pipelines.store.files import write_json
from pipelines.store.locks import exclusive

if TYPE_CHECKING:
    from jobs.runtime.tracking import Run


def run(config: AblateConfig) -> int:
    """Runs the command; returns 0 on success."""
    ablate(config)
    return 0


def ablate(config: AblateConfig) -> Path:
    """Trains, scores and compares all variants under one MLflow run; returns the output folder.

    Raises:
        ValueError: the config cannot be run, as for `ablation.plan`, or the folder was started with other settings.
    """
    ablation = plan(config)
    with exclusive(ablation.output, option="--output"):
        claim(ablation)
        _ablate(ablation)
    return ablation.output


def _ablate(ablation: Ablation) -> None:
    """Trains, scores and compares in a folder that this process has to itself."""
    config = ablation.config
    store, resume = tracking.store_folder(str(ablation.output)), ablation.output / "mlflow.json"
    with (
        tracking.start("ablate", config=settings.flatten(config), beside=store, resume=resume) as tracked,
        tracking.stored_with(tracked),
    ):
        tracked.log_dataset(ablation.root, ablation.version, "ablation")
        results: list[Result] = []
        # Seeds outside, variants inside: a stopped ablation has compared all variants on the first seed, which says
        # more than all seeds of the first variant.
        for seed in range(config.seeds):
            for name in ablation.names:
                results.append(_measure(ablation, name, seed, tracked))
                # After every result, so that an ablation of hours can be read while it runs.
                table.write(ablation.output, results, ablation.changes)
        comparison = {name: _measure_norms(ablation, name, tracked) for name in ablation.names if name in NORMS}
        path = table.write(ablation.output, results, ablation.changes, comparison)
        for name in table.FILES:
            tracked.log_artifact(ablation.output / name)
        tracked.log_artifact(plots.draw(ablation.output, results, ablation.changes, comparison), "plots")
        print("", path.read_text(), f"table: {path}", f"plots: {ablation.output / 'plots'}", sep="\n")
        print(*settings.model_notes(config), sep="\n")


def _measure(ablation: Ablation, name: str, seed: int, tracked: Run) -> Result:
    """Trains and scores a variant; stored results of the variant, or of one with the same settings, are reused."""
    owner, setup = ablation.same(name), ablation.setups[name]
    path = ablation.output / "results" / f"{owner}-{seed}.json"
    if not path.exists():
        print(f"\n== {name}, seed {seed}: {ablation.changes[name] or 'the recipe as it is'}", flush=True)
        run = ablation.train(name, seed, tracked.id)
        benchmark = ShapesBenchmarkConfig(
            generate=setup.generate, shapes=ablation.config.shapes, checkpoint=str(run),
            address=ablation.config.address, parent_run=tracked.id,
            output=str(ablation.output / "judged" / f"{owner}-{seed}"),
        )  # fmt: skip
        scores, samples = _judge(benchmark)
        metrics = table.losses(run, setup.train.steps) | scores
        # Written last: the file is what marks a variant as done, and a killed one is resumed by its training.
        write_json(path, {"run": run.name, "metrics": metrics, "samples": samples})
    stored = read(path)
    tracked.log_metrics({f"{name}/{metric}": value for metric, value in stored["metrics"].items()}, step=seed)
    return Result(name, seed, ablation.output / "runs" / stored["run"], stored["metrics"], stored.get("samples", {}))


def _measure_norms(ablation: Ablation, name: str, tracked: Run) -> dict[str, Any]:
    """For a variant of the norm position: variance of activations by depth and the largest stable learning rate,
    for the first seed."""
    run = ablation.train(name, 0, tracked.id)
    training = ablation.training(name, 0, tracked.id)
    # At least 20, so that the end of a training, a tenth of its steps, averages more than one loss.
    steps = ablation.config.rate_steps or max(20, training.steps // 4)
    folder = ablation.output / "rates" / ablation.same_training(name)
    trials = norms.try_rates(training, ablation.config.rates, steps, folder)
    best = norms.largest_stable(trials)
    if best is not None:
        tracked.log_metrics({f"{name}/largest_stable_lr": best})
    return {"variance": norms.variances(run, training), "rates": trials, "largest_stable_lr": best}


def _judge(config: ShapesBenchmarkConfig) -> tuple[dict[str, float], dict[str, int]]:
    """Scores of a training by the benchmark `shapes` and `_measures`, and the number of samples of each score."""
    import pyarrow.parquet as pq

    summary = run_benchmark(config)
    if summary["failed"]:
        raise RuntimeError(f"{len(summary['failed'])} samples failed; their errors are printed above")
    scores = {name: score["value"] for name, score in summary["scores"].items()}
    columns = ["kind", "seconds", "task", "motion_measured"]
    rows = pq.read_table(Path(summary["output"]) / "scores.parquet", columns=columns).to_pylist()
    return scores | _measures(rows), {name: score["samples"] for name, score in summary["scores"].items()}


def _measures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Median seconds of sampling for a picture and a video, and mean motion of the videos of the task `direction`."""
    measures = {}
    for kind in ("image", "video"):
        seconds = [row["seconds"] for row in rows if row["kind"] == kind]
        # The median, as the first batch of a process includes its warm-up.
        if seconds:
            measures[f"seconds_per_{kind}"] = median(seconds)
    # Of one task, as a mean over all of them would depend on their mixture.
    moving = [row["motion_measured"] for row in rows if row["task"] == "direction"]
    return measures | ({"motion": sum(moving) / len(moving)} if moving else {})
