"""What is trained of a model: LoRA adapters."""
