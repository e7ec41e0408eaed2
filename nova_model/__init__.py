"""NOVA: autoregressive image and video generation without vector quantisation (arXiv 2412.14169)."""

from nova_model.torchvision_ops import install

install()  # keep: makes `import torchvision` safe beside CPU torch, and imports nothing
