"""What is trained of a model: one adapter a file."""
