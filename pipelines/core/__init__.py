"""What a stage is, how stages run on Ray, their progress, and where models come from."""
