"""NovaPipeline: NOVA as a diffusers pipeline."""
