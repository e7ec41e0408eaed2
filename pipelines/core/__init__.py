"""Stages, how Ray runs them and shows their progress, the sources of models, and the text encoder."""
