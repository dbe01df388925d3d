"""LoRA adapters that no training has made: of several adapters, of a whole fine-tune, of another kind of adapter."""
