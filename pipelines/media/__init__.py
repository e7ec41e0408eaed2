"""Media files: listed, probed, decoded, and written."""
