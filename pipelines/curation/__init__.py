"""Curation: the ordered stages, one per file, and the passes that run them over the tables."""
