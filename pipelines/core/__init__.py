"""What a stage is, how Ray runs stages and shows their progress, where models come from, and the text encoder."""
