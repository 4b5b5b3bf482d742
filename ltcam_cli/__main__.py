"""`ltcam`, and the same as `python -m ltcam_cli`."""

from ltcam_cli.allocator import reuse_freed_memory


def main() -> None:
    """Entry point of `ltcam`."""
    reuse_freed_memory()
    from ltcam_cli.cli import app  # imports torch

    app(prog_name="ltcam")


if __name__ == "__main__":
    main()
