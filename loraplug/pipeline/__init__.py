"""A run: its stages in order, what they leave, and how it goes on after a kill."""
