"""Thin: parse, compose the config, call the stations in order."""
