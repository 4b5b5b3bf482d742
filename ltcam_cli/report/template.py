"""Self-contained HTML pages of templates (the extra `report`).

Jinja2 fills a template of `page/` and escapes all texts; style and script beside it become part of
the page. It loads nothing from anywhere.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ltcam_cli
from ltcam_cli.errors import require
from ltcam_cli.report.curves import as_svg

TEMPLATES = Path(__file__).with_name("page")
LIBRARIES = ("torch", "torchvision", "numpy", "scikit-image")
Drawn = tuple[str, str, Any]  # title, note and figure


def filled(name: str, **values: Any) -> str:
    """The page as HTML, of a template and its values.

    Raises:
        LtcamError: if jinja2 is not installed.
    """
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page: str = environment.get_template(name).render(
        **values,
        versions=_versions(),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "script.js").read_text(encoding="utf-8"),
    )
    return page


def in_page(figures: list[Drawn]) -> list[dict[str, Any]]:
    """Title, note and SVG of each figure, and whether it takes the page's whole width."""
    return [
        {
            "title": title,
            "note": note,
            "svg": as_svg(figure, title, f"figure{number}"),
            "wide": len(figure.axes) > 1,
        }
        for number, (title, note, figure) in enumerate(figures, 1)
    ]


def _versions() -> dict[str, str]:
    """Versions of this program, of Python and of the numerical libraries."""
    versions = {"ltcam": ltcam_cli.__version__, "Python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
