"""Unified diffs: read, repaired, reversed, and proved to apply."""
