"""From a version of `examples` to training batches."""
