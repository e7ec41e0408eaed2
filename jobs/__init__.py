"""Entrypoints: build the config, build the objects, run. `nova --help` lists them."""

from nova_model.torchvision_ops import install

install()
