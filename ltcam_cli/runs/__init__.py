"""Run folders, tables, finding and resuming runs."""
