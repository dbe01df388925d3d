"""A run: its stages in order, its folder, and resuming after a kill."""
