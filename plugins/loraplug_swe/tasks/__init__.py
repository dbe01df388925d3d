"""Tasks: SWE-SYNTH's and SWE-bench's, in buckets, folders, files and on the hub, told apart and selected."""
