"""`python -m ltcam_cli` is `ltcam`."""

from ltcam_cli.cli import main

main()
