"""The documentation: short sentences, plain words, links that lead somewhere, code that parses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

ROOT_PAGES = [REPOSITORY / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
PAGES = [*ROOT_PAGES, *sorted(REPOSITORY.glob("docs/*.md"))]
FORBIDDEN = ["leave away", "leaves away", "left away", "held against", "line each"]
ABBREVIATIONS = re.compile(r"\b(eq|e\.g|i\.e|al|vs|Meas|Sci|Technol|Appl|Comput)\.$")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> Iterator[str]:
    """Paragraphs and list items of a page, without code, tables and headings."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"^( {4}(?!\s*([-*]|\d+\.) )\S.*\n)+", indented_code, text, flags=re.M)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
        block = " ".join(block.split())
        if block and not block.startswith(("#", "|", "--8<--", ":::", "!", "{{")):
            yield re.sub(r"^([-*]|\d+\.) ", "", block)


def indented_code(match: re.Match[str]) -> str:
    """An indented block: code after an empty line, else the rest of a list item."""
    before = match.string[: match.start()]
    return "" if before.endswith("\n\n") and not in_list(before) else match[0]


def in_list(before: str) -> bool:
    """Whether the last line that is not indented begins a list item."""
    lines = [line for line in before.splitlines() if line.strip() and not line.startswith("  ")]
    return bool(lines and re.match(r"([-*]|\d+\.) ", lines[-1]))


def sentences(paragraph: str) -> Iterator[str]:
    """Sentences, with code as one word each and links as their text."""
    text = re.sub(r"`[^`]*`", "CODE", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph))
    sentence = ""
    for part in re.split(r"(?<=[.!?])[)*\"]*\s+(?=[A-Z(*0-9\"ΔΣδρ])", text):
        sentence = f"{sentence} {part}".strip()
        if not ABBREVIATIONS.search(part):
            yield sentence
            sentence = ""
    if sentence:
        yield sentence


@pages
def test_no_sentence_is_above_30_words(page: Path) -> None:
    long = [s for paragraph in prose(page) for s in sentences(paragraph) if len(s.split()) > 30]
    assert not long, "\n\n".join(long)


@pages
def test_words(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert not [phrase for phrase in FORBIDDEN if phrase in text]


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\s-]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pages
def test_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_navigation_names_every_page() -> None:
    config = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    names = re.findall(r"[\w-]+\.md", str(config["nav"]))
    assert sorted(names) == sorted(page.name for page in REPOSITORY.glob("docs/*.md"))


def examples() -> dict[str, str]:
    """Python files of docs/extend.md: the first line of each is a comment with its name."""
    text = (REPOSITORY / "docs/extend.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(# (\S+\.py)\n.*?)^```$", text, flags=re.M | re.S)
    return {name: code for code, name in blocks}


def test_examples_of_extensions_are_complete_files() -> None:
    files = examples()
    assert sorted(files) == ["mypkg/cams.py", "mypkg/data.py", "mypkg/masks.py"]
    for name, code in files.items():
        compile(code, name, "exec")
