"""Every tensor of the reference material: passes of the released model, generations from their seeds, the video VAE.

`nova_model/tools/parity.py` computes them; here is what must be there, and how close passes come.
"""

import pytest

from nova_model.tools import parity

PASS = ["text_padded", "context", "temporal_out", "spatial_out", "denoiser_out"]
TABLES = ["sched_timesteps_5"]
GENERATIONS = ["gen_seed123", "gen_noguidance_seed5", "gen_trunc_renorm_seed9", "gen_renorm_floor_seed19"]
HELD = {
    "t2i_flow": [*PASS, "loss", *TABLES, "sched_sigmas_5", *GENERATIONS],
    "t2v_ddpm": [
        *PASS, "context_with_motion", "loss_t2i", "loss_i2i", *TABLES, *GENERATIONS, "gen_first_frame_seed11",
        "gen_extrapolate_seed13",
    ],
}  # fmt: skip
HELD["video_vae"] = [f"{kind}_{frames}" for kind in ("moments", "decoded") for frames in (1, 17, 33)]
HELD["video_vae"].append("image_moments")
CASES = [(folder, name) for folder, names in HELD.items() for name in names]


@pytest.fixture(scope="module")
def checks(shared):
    """Compares a folder once."""
    done = {}

    def of(folder):
        if folder not in done:
            done[folder] = {check.name: check for check in parity.compare(shared / "golden" / folder)}
        return done[folder]

    return of


@pytest.mark.parametrize("folder", HELD)
def test_no_reference_tensor_is_left_out(checks, folder):
    assert set(checks(folder)) == set(HELD[folder])


@pytest.mark.parametrize(("folder", "name"), CASES)
def test_the_reference_holds(checks, folder, name):
    check = checks(folder)[name]
    assert check.tolerance == (3e-4 if name.startswith(("gen_", "sched_timesteps")) else 5e-5)
    assert check.ok, str(check)
    if not name.startswith("gen_"):
        assert check.difference < 1e-5
