"""A program that runs one command isolated; see `__main__.py`. Standard library only; run by its path."""
