"""Benchmarks of a checkpoint.

layouts.py     published benchmarks: their prompts, in the layout that their official scorers read
benchmark.py   what a benchmark that judges samples itself provides, and the files that its result becomes
"""
