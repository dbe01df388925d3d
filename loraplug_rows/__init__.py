"""What sources and formatters agree on: the shapes rows may have, the conversations they become, and their groups.

A library below the core, which itself takes rows of any shape; plugins use what `loraplug` passes on of it.
"""
