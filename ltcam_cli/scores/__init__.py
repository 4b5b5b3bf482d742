"""Pixel counts, curves, image scores, intervals."""
