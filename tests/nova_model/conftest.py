"""A pipeline of small networks, read from a folder in the layout of the releases."""

from __future__ import annotations

import pytest

from nova_model.diffusers.pipeline import NovaPipeline
from tests.nova_model.folders import make_released, make_video_vae
from tests.nova_model.models import tiny
from tests.nova_model.pipes import quiet


@pytest.fixture(scope="session")
def released_folder(tmp_path_factory):
    return make_released(tmp_path_factory.mktemp("released") / "nova")


@pytest.fixture(scope="session")
def loaded(released_folder):
    return quiet(NovaPipeline.from_pretrained(released_folder))


@pytest.fixture
def pipe(loaded):
    """A new pipeline of the same components, which a test may change."""
    return quiet(NovaPipeline(**loaded.components))


@pytest.fixture(scope="session")
def precise(loaded):
    """A pipeline in fp64, where rounding does not hide what a sample depends on."""
    components = {**loaded.components, "transformer": tiny().double()}
    return quiet(NovaPipeline(**components))


@pytest.fixture
def video_pipe(pipe):
    """A pipeline with the video VAE."""
    return quiet(NovaPipeline(**{**pipe.components, "vae": make_video_vae()}))
