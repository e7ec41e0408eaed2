"""`nova ablate`: short trainings without one component each, compared with the full recipe."""
