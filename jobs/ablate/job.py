"""`nova ablate`: what each part of the recipe is good for, by trainings without it.

    nova ablate --recipe debug --tables work/tables --output work/ablation --only no_temporal,set_steps --steps 200

Trains each variant of `jobs/ablate/variants.py` for a few steps under one MLflow run, judges it by the benchmark
`shapes`, and says what moved against the whole recipe. Run again, it goes on where it was.

    OUTPUT/ablation.md        what moved and by how much; ablation.json and ablation.parquet hold the numbers
    OUTPUT/plots/             losses, scores, sampling, norms
    OUTPUT/runs/NAME-SEED/    the trainings
    OUTPUT/judged/NAME-SEED/  what the benchmark made of them
    OUTPUT/tables/NAME/       tables that were curated otherwise
    OUTPUT/rates/NAME/        trainings at rising learning rates
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from jobs import settings
from jobs.ablate.config import AblateConfig
from jobs.ablate.variants import NORMS
from jobs.benchmark import run_benchmark
from jobs.shapes_world.benchmark import ShapesBenchmarkConfig
from pipelines.store.files import write_json

if TYPE_CHECKING:
    from jobs.ablate.ablation import Work
    from jobs.ablate.table import Result
    from jobs.runtime.tracking import Run


def run(config: AblateConfig) -> int:
    """Ablates; 0 on success."""
    ablate(config)
    return 0


def ablate(config: AblateConfig) -> Path:
    """Trains, judges and compares under one MLflow run; returns the output folder.

    Raises:
        ValueError: as `ablate_work.claim`.
    """
    from jobs.ablate import ablation as ablate_work
    from jobs.ablate import plots as ablate_plots
    from jobs.ablate import table as ablate_table
    from jobs.runtime import tracking

    work = ablate_work.claim(config)
    flat, resume = settings.flatten(config), work.output / "mlflow.json"
    with (
        tracking.start("ablate", config=flat, beside=tracking.store_folder(str(work.output)), resume=resume) as tracked,
        tracking.stored_with(tracked),
    ):
        tracked.log_dataset(work.root, work.version, "ablation")
        results: list[Result] = []
        for seed in range(config.seeds):
            for name in work.names:
                results.append(_measured(work, name, seed, tracked))
                ablate_table.write(work.output, results, work.changes)
        norms = {name: _norms(work, name, tracked) for name in work.names if name in NORMS}
        table = ablate_table.write(work.output, results, work.changes, norms)
        for name in ablate_table.FILES:
            tracked.log_artifact(work.output / name)
        tracked.log_artifact(ablate_plots.draw(work.output, results, work.changes, norms), "plots")
        print("", table.read_text(), f"table: {table}", f"plots: {work.output / 'plots'}", sep="\n")
        print(*settings.model_notes(config), sep="\n")
    return work.output


def _measured(work: Work, name: str, seed: int, tracked: Run) -> Result:
    """Trains and judges a variant; what was done before, or for a variant that is the same, is taken from there."""
    from jobs.ablate import ablation as ablate_work
    from jobs.ablate.table import Result, losses

    owner, setup = work.same(name), work.setups[name]
    path = work.output / "results" / f"{owner}-{seed}.json"
    if not path.exists():
        print(f"\n== {name}, seed {seed}: {work.changes[name] or 'the recipe as it is'}", flush=True)
        run = work.trained(name, seed, tracked.id)
        benchmark = ShapesBenchmarkConfig(
            generate=setup.generate, shapes=work.config.shapes, address=work.config.address, parent_run=tracked.id,
            checkpoint=str(run), output=str(work.output / "judged" / f"{owner}-{seed}"),
        )  # fmt: skip
        scores, samples = _judge(benchmark)
        metrics = losses(run, setup.train.steps) | scores
        write_json(path, {"run": run.name, "metrics": metrics, "samples": samples})
    stored = ablate_work.read(path)
    tracked.log_metrics({f"{name}/{metric}": value for metric, value in stored["metrics"].items()}, step=seed)
    return Result(name, seed, work.output / "runs" / stored["run"], stored["metrics"], stored.get("samples", {}))


def _norms(work: Work, name: str, tracked: Run) -> dict[str, Any]:
    """Where a variant puts the norms: variance of activations by depth, and the largest stable learning rate. Of the
    first seed."""
    from jobs.ablate import norms as ablate_norms

    run = work.trained(name, 0, tracked.id)
    training = work.training(name, 0, tracked.id)
    steps = work.config.rate_steps or max(20, training.steps // 4)
    tries = ablate_norms.tries(training, work.config.rates, steps, work.output / "rates" / work.same_training(name))
    best = ablate_norms.largest_stable(tries)
    if best is not None:
        tracked.log_metrics({f"{name}/largest_stable_lr": best})
    return {"variance": ablate_norms.variances(run, training), "rates": tries, "largest_stable_lr": best}


def _judge(config: ShapesBenchmarkConfig) -> tuple[dict[str, float], dict[str, int]]:
    """Scores of a training run by the benchmark `shapes`, with what `_measures` adds, and the samples of each score."""
    import pyarrow.parquet as pq

    summary = run_benchmark(config)
    if summary["failed"]:
        raise RuntimeError(f"{len(summary['failed'])} samples failed; see above")
    scores = {name: score["value"] for name, score in summary["scores"].items()}
    columns = ["kind", "seconds", "task", "motion_measured"]
    rows = pq.read_table(Path(summary["output"]) / "scores.parquet", columns=columns).to_pylist()
    return scores | _measures(rows), {name: score["samples"] for name, score in summary["scores"].items()}


def _measures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of judged samples: the seconds that a picture and a video take, medians, and how much moves in the videos of
    `direction`, mean."""
    found = {}
    for kind in ("image", "video"):
        seconds = [row["seconds"] for row in rows if row["kind"] == kind]
        if seconds:
            found[f"seconds_per_{kind}"] = median(seconds)
    moving = [row["motion_measured"] for row in rows if row["task"] == "direction"]
    return found | ({"motion": sum(moving) / len(moving)} if moving else {})
