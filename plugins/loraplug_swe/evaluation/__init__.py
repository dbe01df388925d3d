"""`loraplug eval`: answers to tasks, applied and tested in a sandbox, and what they are worth."""
