"""Samples, data sets and their splits, batches, and the download of published data sets."""
