"""`python -m loraplug`, as `accelerate launch -m loraplug` needs it."""

from loraplug.cli import main

if __name__ == "__main__":  # worker processes import this file too
    main()
