"""What training needs of pure torch: optimizers, learning rates, moving averages, precision."""
