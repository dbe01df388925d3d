"""`python -m loraplug`, as `accelerate launch -m loraplug` needs it."""

from loraplug.cli import main

main()
