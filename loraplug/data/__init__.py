"""Rows: the shapes they may have, the conversations they become, their groups, and mixtures of data sets."""
