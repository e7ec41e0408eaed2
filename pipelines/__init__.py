"""Ray Data stages and the tables they fill: from media to training batches, and from samples to scores."""

from nova_model.torchvision_ops import install

# Stages import torchvision in Ray's workers, which import this package first.
install()
