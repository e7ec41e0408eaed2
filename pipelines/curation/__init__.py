"""Curation: the ordered stages, one a file, and the passes that run them over the tables."""
