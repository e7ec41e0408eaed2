"""The causal video VAE, and pixels to latents and back."""
