"""`nova train`: from a version of the tables to a trained NOVA, with Ray Train."""
