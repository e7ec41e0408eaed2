"""The bench times every case, and says so where results differ."""

import json

import pytest
import torch

from nova_model.config import SamplingConfig
from nova_model.presets import PRESETS
from nova_model.tools import bench

CASES = ["train_step_T1_B4", "train_step_T3_B2", "sample_T1_16x25", "sample_T3_16x25"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(PRESETS, "bench", PRESETS["tiny"])
    monkeypatch.setattr(bench, "SIZE", 8)
    monkeypatch.setattr(bench, "SAMPLING", SamplingConfig(set_steps=4, diffusion_steps=4, guidance_scale=5.0))
    monkeypatch.setattr(bench, "multiplies_bf16", lambda device: False)


def test_the_last_line_is_one_json_object_with_every_case(capsys):
    threads = torch.get_num_threads()
    try:
        bench.main(["--json", "--threads", "1", "--rounds", "1"])
    finally:
        torch.set_num_threads(threads)
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["threads"] == 1
    assert len(table) == 4
    for name in CASES:
        assert found[name] > 0
        assert found[f"{name}_ratio"] > 0
        assert found[f"{name}_difference"] < 1e-3


def test_another_result_shows():
    case = bench.train_case(1, 2, torch.device("cpu"), 1, torch.float32)
    wrong = bench.TimedCase(lambda number: case.model(number) * 1.5, case.reference, 1)
    assert bench.measure(wrong, torch.device("cpu")).difference == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--rounds", "0"], "bench: --rounds is 0; it must be at least 1"),
        (["--threads", "many"], "bench: argument --threads: invalid int value: 'many'"),
        (["--nothing"], "bench: unrecognized arguments: --nothing"),
        (["--only", "nothing"], "bench: no case is called 'nothing'; they are train_step_T1_B4, "),
    ],
)
def test_wrong_options_are_one_line_and_exit_status_2(arguments, match, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert match in output.err
