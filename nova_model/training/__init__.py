"""Training components in pure torch: optimizers, learning rates, moving averages, precision."""
