"""Backbones, their heads and named layers; training; checkpoints."""
