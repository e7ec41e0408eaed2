"""Commands of the shapes world: its corpus, its zoo, its benchmark."""
