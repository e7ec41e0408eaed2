"""Command-line tools around the model: parity, bench, describe."""
