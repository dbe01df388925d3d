"""The dataset sources `swe` and `swe-synth`: tasks as conversations and as instructions."""
