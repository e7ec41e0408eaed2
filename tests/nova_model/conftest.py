"""A pipeline with small parts, read from a folder as the releases are laid out."""

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
    """A pipeline of its own, of the same parts."""
    return quiet(NovaPipeline(**loaded.components))


@pytest.fixture(scope="session")
def precise(loaded):
    """In fp64, where rounding does not hide what a sample depends on."""
    parts = {**loaded.components, "transformer": tiny().double()}
    return quiet(NovaPipeline(**parts))


@pytest.fixture
def video_pipe(pipe):
    """With the video VAE."""
    return quiet(NovaPipeline(**{**pipe.components, "vae": make_video_vae()}))
