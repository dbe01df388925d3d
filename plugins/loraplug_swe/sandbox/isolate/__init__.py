"""A program that runs one command shut in; see `__main__.py`. Standard library only; run by its path."""
