"""Git repositories as sources of files: cached clones, objects read in batches, trees built in memory."""
