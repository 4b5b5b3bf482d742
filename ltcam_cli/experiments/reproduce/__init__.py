"""Reproduction of the paper's tables and figures, or of one's own, over folds and seeds."""
