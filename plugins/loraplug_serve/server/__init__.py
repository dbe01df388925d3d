"""`loraplug serve`: models behind an HTTP interface like OpenAI's."""
