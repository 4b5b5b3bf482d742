"""Heatmap (and image) to binary mask."""
