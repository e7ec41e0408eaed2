"""Weights, and the released folder layout read and written."""
