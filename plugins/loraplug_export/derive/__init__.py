"""Adapters made without training: merged from several, extracted from a full fine-tune, converted from other kinds."""
