"""Samples and where they come from: ksdd, ksdd2, folder, synthetic; splits; download."""
