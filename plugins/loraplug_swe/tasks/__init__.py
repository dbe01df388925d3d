"""SWE-SYNTH and SWE-bench tasks: reading from buckets, folders, files and the hub, detecting kinds, selection."""
