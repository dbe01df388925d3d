"""`loraplug eval`: answers to tasks are applied and tested in a sandbox, and scored."""
