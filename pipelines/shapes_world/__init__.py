"""A small world of moving, captioned shapes with known ground truth: the demo's corpus, and the stages' test data.

scenes.py         scenes, how they are drawn from a seed, and their captions
draw.py           renders scenes as frames, with the true optical flow
corpus.py         writes a folder of media with a manifest: good, ugly, duplicated and broken, with ground truth
audit.py          compares curated tables with that truth; audit_report.py presents the result
judge.py          detects and tracks things in pixels
prompts.py        the grammar of the benchmark `shapes`
benchmark.py      prepares the benchmark for a checkpoint; verdicts.py judges its samples, whose columns columns.py has,
                  scores.py scores them, sheets.py draws them
zoo/              small models trained on this world

Outside of this package and `jobs/shapes_world`, only the command line, the recipes, the demo and the ablation import
it.
"""
