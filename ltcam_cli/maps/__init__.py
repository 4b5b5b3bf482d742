"""The heart: one capture, truncation, weighting, fusion, heatmap."""
