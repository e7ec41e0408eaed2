"""Entrypoints: build the config, build the objects, run. `nova --help` lists them."""

import sys

from jobs.search_path import ignore_working_directory

if sys.argv[:1] == ["-m"]:  # `python -m jobs.cli`, before anything else is imported
    ignore_working_directory()

from nova_model.torchvision_ops import install

install()
