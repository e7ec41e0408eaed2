"""Named runs: what `--recipe NAME` starts from.

    debug               small bundled models (the zoo), seconds; what runs without --recipe
    shapes              the same on a corpus of `nova shapes`; an hour of training
    demo                the same on the demo's corpus, continuing from zoo/nova; a minute of training
    t2i-512-0.6b        one per released checkpoint, with hub ids, for machines with GPUs
    t2i-1024-0.3b
    t2i-1024-0.6b
    t2i-1024-1.4b
    t2v-480x768-0.6b

`small.py` and `released.py` hold the recipes, `registry.py` finds one by name. This module imports nothing, so that
`nova --help` can list the names at once.
"""

NAMES = (
    "debug", "demo", "shapes", "t2i-512-0.6b", "t2i-1024-0.3b", "t2i-1024-0.6b", "t2i-1024-1.4b", "t2v-480x768-0.6b",
)  # fmt: skip
