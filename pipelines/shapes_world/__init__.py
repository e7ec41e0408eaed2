"""A small world of moving, captioned shapes with known ground truth: the demo's corpus, and what stages are tested on.

scenes.py         what a scene is, how scenes are drawn from a seed, and their captions
draw.py           renders scenes as frames, with the true optical flow
corpus.py         writes a folder of media with a manifest: good, ugly, duplicated and broken, and the truth of each
audit.py          compares curated tables with that truth; audit_report.py presents the result
judge.py          detects and tracks things in pixels
prompts.py        the grammar of the benchmark `shapes`; benchmark.py judges its samples, sheets.py shows them
zoo/              small models trained on this world

Nothing outside of this package and `jobs/shapes_world` imports it, but the command line, the recipes and the demo.
"""
