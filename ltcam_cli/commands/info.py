"""`methods`, `config`: what a command can be told. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ltcam_cli.commands.compose import GROUPS, root_groups, settings_of
from ltcam_cli.commands.experiments import with_named_method
from ltcam_cli.commands.options import Call
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.experiments.config_files import conf_dir, config_files, merged_file
from ltcam_cli.maps.weightings import get_weighting
from ltcam_cli.report.terminal import commented_yaml

HEAD_NOTE = """\
The head decides whether truncation can act on the last stage: behind backbone.head=avg all
gradients of a channel are equal there, behind max only one is not 0, so truncation by channel
changes nothing there but the sign; fc and lse let it act. Methods that read no gradients take no
delta. The stages' maps differ in size by orders of magnitude: fusion.normalize=none, the paper's
plain sum, is practically the deepest stage alone where batch norm is; minmax gives all a voice."""


def methods(config_dir: Path | None) -> None:
    """Print a table of what `--method` takes, the user's own methods among them."""
    import pandas as pd

    from ltcam_cli.report.terminal import print_table

    rows = []
    for name, path in sorted(config_files("method", config_dir).items()):
        values = {"layers": "last"} | merged_file(path)
        weighting = values.get("weighting")
        needs = get_weighting(weighting).needs if weighting else frozenset()
        delta = values.get("delta")
        rows.append(
            {
                "method": name,
                "weighting": weighting or values["source"],
                "layers": values["layers"],
                "delta": "" if delta is None else f"{delta:g}",
                "needs": " ".join(sorted(needs)),
                "what": path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "),
            }
        )
    print_table(pd.DataFrame(rows))
    print(f"\n{HEAD_NOTE}")


def config(call: Call, job: str) -> None:
    """Print a command's composed config as YAML, with what each key means."""
    jobs = [path.stem for path in conf_dir().glob("*.yaml") if path.stem != "base"]
    if job not in jobs:
        raise LtcamError(f"config {job}: no such command{nearest(job, jobs)}")
    call = with_named_method(call) if job in {"student", "predict", "review", "watch"} else call
    settings = settings_of(job, call)
    groups = root_groups(job)
    values = {
        key: value
        for key, value in asdict(settings).items()
        if key not in GROUPS or (key in groups and key != "pipeline")
    }
    print("\n".join(commented_yaml(values, settings)))
