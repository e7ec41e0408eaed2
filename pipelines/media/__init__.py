"""Media files: probed, decoded, written, and listed."""
