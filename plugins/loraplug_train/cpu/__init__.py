"""The fast path on the CPU: a Llama-like model with LoRA adapters, forward and backward written by hand."""
