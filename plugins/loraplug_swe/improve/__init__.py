"""`loraplug improve`: rounds in which a model answers, tests judge, and what passed is trained on."""
