"""Metrics, benchmarks and their summaries."""
