"""`nova ablate`: short trainings without one part of the recipe each, and what changed."""
