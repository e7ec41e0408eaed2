"""From prompts to files: requests, the stage, the manifest, and checkpoints resolved."""
