"""Published benchmarks: their prompts and the layouts that their scorers read."""
