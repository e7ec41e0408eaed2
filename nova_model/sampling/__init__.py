"""Sampling: noise schedules, the loop over frames, and one frame set by set."""
