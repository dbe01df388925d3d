"""The one training loop that all objectives share: schedule, steps, checkpoints, processes, monitoring."""
