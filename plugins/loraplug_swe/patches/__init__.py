"""Unified diffs: parsing, repair, reversal, and verification that they apply."""
