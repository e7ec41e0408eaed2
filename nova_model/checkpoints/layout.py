"""Names in the released folder layout: the index, the folders of a pipeline's components, and variants of weights."""

from __future__ import annotations

INDEX = "model_index.json"
COMPONENTS = ("transformer", "scheduler", "vae", "text_encoder", "tokenizer")
WEIGHTED = ("transformer", "vae", "text_encoder")
"""Components that have weights."""
OPTIONAL = ("vae", "text_encoder", "tokenizer")
"""Components that a pipeline can do without: it then takes features or labels instead of text, and returns latents."""
PIPELINE = "NOVAPipeline"
"""Class of the pipeline in a released index."""
VIDEO_VAES = ("AutoencoderKLOpenSora", "VideoVae")
"""Class of the video VAE in the releases, and in this project."""
VARIANTS = ("fp16", "bf16", "fp32", "ema", "non_ema")
"""Common variants of weights, as in diffusion_pytorch_model.fp16.safetensors."""
