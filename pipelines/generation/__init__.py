"""From prompts to files: checkpoint resolution, sample requests, the stage that generates, and the manifest.

config.py                  how samples are generated: size, motion, sampling, precision, resources
checkpoint_resolution.py   where the networks of a checkpoint are
requests.py                what to generate: one request per file
stage.py                   the Ray Data stage that answers requests
manifest.py                sample ids, manifest.parquet, and generating what it does not list yet
"""
