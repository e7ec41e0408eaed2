"""Scores of media by metrics, and benchmarks of checkpoints.

metrics/       one metric per file
scoring.py     samples to score, and their scores by the metrics
results.py     what evaluations write and print
benchmarks/    published benchmarks, and what a benchmark that judges samples itself provides
"""
