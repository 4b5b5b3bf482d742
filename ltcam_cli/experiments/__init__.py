"""Experiments: plan, jobs, run. They know neither Hydra nor Typer; a notebook can call them."""
