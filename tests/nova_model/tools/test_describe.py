"""`python -m nova_model.tools.describe`: one JSON object, the spec's parameter counts, nothing allocated."""

import json
import subprocess
import sys

import pytest

from nova_model.config import MaskRatios, SamplingConfig
from nova_model.masking import draw_mask_ratio, mean_mask_ratio
from nova_model.tools import describe as module
from nova_model.tools.describe import describe, main
from tests.nova_model.models import generator
from tests.processes import run_and_measure_peak

COUNTS = {
    "nova-d48w1024-sd512": 645_693_456,
    "nova-d48w768-sdxl1024": 363_946_000,
    "nova-d48w1024-sdxl1024": 645_693_456,
    "nova-d48w1536-sdxl1024": 1_449_836_560,
    "nova-d48w1024-osp480": 644_118_544,
}


@pytest.mark.parametrize("name", COUNTS)
def test_released_presets_have_the_released_number_of_parameters(name):
    counts = module.parameter_counts(module.PRESETS[name])
    assert counts["total"] == COUNTS[name]
    assert sum(counts.values()) == 2 * COUNTS[name]


def test_the_largest_model_is_described_in_little_memory():
    """Its weights alone would be 5.8 GB; nearly all of the peak is what the imports of torch and diffusers take."""
    program = "import sys; from nova_model.tools.describe import main; sys.exit(main(sys.argv[1:]))"
    line, peak = run_and_measure_peak(program, ["nova-d48w1536-sdxl1024"])
    parameters = json.loads(line)["parameters"]
    assert parameters == COUNTS["nova-d48w1536-sdxl1024"]
    assert peak < 0.1 * 4 * parameters


def test_what_it_says(capsys):
    assert main(["shapes", "--batch", "2", "--frames", "3", "--set-steps", "8", "--precision", "fp32"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert found["latents"] == {"channels": 8, "frames": 3, "height": 8, "width": 8}
    step, made, held = found["training_step"], found["generation"], found["training_memory_bytes"]
    for cost in (step["flops"], step["flops_forward"], step["flops_with_checkpointing"], made["flops"]):
        assert cost["total"] == cost["temporal"] + cost["spatial"] + cost["denoiser"] > 0
    for part in ("temporal", "spatial", "denoiser"):
        assert step["flops"][part] == 3 * step["flops_forward"][part]
        assert step["flops_with_checkpointing"][part] == 4 * step["flops_forward"][part]
    assert (made["set_steps"], made["diffusion_steps"], made["guidance_scale"]) == (8, 25, 5.0)
    assert held["parameters"] == held["gradients"] == held["ema"] == held["adamw"] / 2 == 4 * found["parameters"]
    fixed = 5 * held["parameters"]
    assert held["total"] == fixed + held["activations"]
    assert held["total_with_checkpointing"] == fixed + held["activations_with_checkpointing"] < held["total"]


@pytest.fixture
def quick(monkeypatch):
    """Memory is counted in its own tests."""
    monkeypatch.setattr("nova_model.tools.memory.activation_bytes", lambda *_: 0)


def test_options_change_what_they_name(quick):
    base = describe("tiny", batch=1)
    twice = describe("tiny", batch=2)
    assert twice["generation"]["flops"]["spatial"] == 2 * base["generation"]["flops"]["spatial"]
    assert twice["training_step"]["flops"]["spatial"] == 2 * base["training_step"]["flops"]["spatial"]
    alone = describe("tiny", sampling=SamplingConfig(guidance_scale=1.0))
    assert 2 * alone["generation"]["flops"]["spatial"] == base["generation"]["flops"]["spatial"]
    more = describe("tiny", loss_repeat=8)
    assert 1.9 < more["training_step"]["flops"]["denoiser"] / base["training_step"]["flops"]["denoiser"] < 2.1
    assert more["training_step"]["flops"]["spatial"] == base["training_step"]["flops"]["spatial"]
    only = describe("tiny", checkpointing=("spatial",))
    assert only["training_step"]["flops_with_checkpointing"]["denoiser"] == base["training_step"]["flops"]["denoiser"]
    assert only["training_memory_bytes"]["checkpointing"] == ["spatial"]


@pytest.mark.parametrize(("name", "steps"), [("nova-d48w1024-sd512", 100), ("nova-d48w768-sdxl1024", 25)])
def test_steps_are_those_of_the_release(name, steps, quick):
    found = describe(name)
    assert found["generation"]["diffusion_steps"] == steps
    assert found["generation"]["set_steps"] == 64
    assert describe(name, sampling=SamplingConfig(diffusion_steps=7))["generation"]["diffusion_steps"] == 7


@pytest.mark.parametrize(("ratios", "error"), [(MaskRatios(), 2e-3), (MaskRatios(min_ratio=0.1, std=0.5), 4e-3)])
def test_the_mean_mask_ratio_is_that_of_the_draws(ratios, error):
    rng = generator()
    drawn = [draw_mask_ratio(rng, ratios) for _ in range(20000)]
    assert mean_mask_ratio(ratios) == pytest.approx(sum(drawn) / len(drawn), abs=error)
    assert ratios.min_ratio <= min(drawn) < ratios.min_ratio + 0.02
    assert max(drawn) <= 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["nova-d48w1024-osp48"], "unknown preset 'nova-d48w1024-osp48'; did you mean nova-d48w1024-osp480?"),
        (["zzz"], "unknown preset 'zzz'; did you mean "),
        (["tiny", "--batch", "0"], "batch must be at least 1"),
        (["tiny", "--frames", "-1"], "frames must be at least 1"),
        (["tiny", "--set-steps", "0"], "set_steps and diffusion_steps must be at least 1"),
        ([], "describe: the following arguments are required: PRESET; see python -m nova_model.tools.describe --help"),
        (["tiny", "--batch", "many"], "describe: argument --batch: invalid int value: 'many'"),
        (["tiny", "--precision", "fp8"], "describe: argument --precision: invalid choice: 'fp8'"),
    ],
)
def test_what_cannot_be_described_is_a_one_line_error(arguments, match, capsys):
    assert exit_status(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert match in shown.err


@pytest.mark.parametrize("name", ["bench", "describe"])
def test_the_former_places_of_the_commands_still_work(name):
    """`python -m nova_model.bench` and `nova_model.describe`, for one version."""
    ended = subprocess.run(
        [sys.executable, "-m", f"nova_model.{name}", "--nothing"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    note, message = ended.stderr.splitlines()
    assert note == f"nova_model.{name} is deprecated: use python -m nova_model.tools.{name}"
    assert message.startswith(f"{name}: ")


def exit_status(arguments):
    """The command returns its status, and argparse raises it."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code
