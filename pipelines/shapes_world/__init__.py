"""A small world of moving, captioned shapes with known truth: the demo corpus, and what stages are checked against.

scenes.py   what a scene is, how scenes are drawn from a seed, and what a caption says of one
draw.py     a scene as frames
corpus.py   a folder of media with a manifest, good, ugly, duplicated and broken, and the truth about each
judge.py    what a picture or video shows, read off its pixels
prompts.py  the grammar of the benchmark `shapes`; benchmark.py judges its samples, sheets.py shows them
"""

from pipelines.shapes_world.corpus import write_corpus
from pipelines.shapes_world.draw import render, true_flow
from pipelines.shapes_world.scenes import Scene, Thing, long_caption, sample_scene, short_caption

__all__ = ["Scene", "Thing", "long_caption", "render", "sample_scene", "short_caption", "true_flow", "write_corpus"]
