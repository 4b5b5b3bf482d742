#!/usr/bin/env python3
"""Latency of `ltcam watch`: scripts/latency.py IMAGES COUNT -- OPTIONS OF ltcam watch.

Copies COUNT images of a folder, one at a time, into a folder that is watched, each under its name
at once. Prints the median and the greatest time from there to its line on standard output.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Measure, and print."""
    source, count, _, *options = sys.argv[1:]
    images = sorted(path for path in Path(source).iterdir() if path.is_file())
    seconds = []
    with tempfile.TemporaryDirectory() as place:
        incoming = Path(place, "incoming")
        incoming.mkdir()
        command = [sys.executable, "-m", "ltcam_cli", "watch", str(incoming), *options]
        command += ["--out", f"{place}/out"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for image in images[: int(count) + 1]:  # the first one waits for the model
                copy = shutil.copy(image, Path(place, image.name))
                started = time.perf_counter()
                Path(copy).rename(incoming / image.name)
                if not process.stdout.readline():
                    sys.exit("ltcam watch ended")
                seconds.append(time.perf_counter() - started)
                time.sleep(0.2)
            process.terminate()
    print(f"median {statistics.median(seconds[1:]):.3f} s, greatest {max(seconds[1:]):.3f} s")


if __name__ == "__main__":
    main()
