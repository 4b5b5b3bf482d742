"""Split and label files: CSVs as people and spreadsheets write them, and the images they name."""

from __future__ import annotations

import csv
import difflib
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ltcam_cli.data.listing import file_name
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError

T = TypeVar("T")

MOST_COMPARED = 10_000  # names that a mistyped one is compared with
SEPARATORS = ",;\t|"
# What people call the two classes, in small letters without -, _ and blanks.
GOOD = frozenset(
    "good ok normal pass passed clean fine intact io defectfree nodefect nondefective nodefects "
    "undamaged healthy anomalyfree".split()
)
DEFECT = frozenset(
    "defect defects defective bad ng nok notok nio fail failed faulty damaged anomaly anomalous "
    "abnormal".split()
)
LABELS = {
    **dict.fromkeys(("0", "0.0", "false", *GOOD), 0),
    **dict.fromkeys(("1", "1.0", "true", *DEFECT), 1),
}


def plain(word: str) -> str:
    """A word in small letters, without `-`, `_`, `.` between letters, and blanks."""
    return re.sub(r"[-_\s]|(?<=[^\W\d])\.", "", word.casefold())


def kinds_in(text: str) -> tuple[str, ...]:
    """Kinds of defects that a word names, `+` between them; none if it is empty or means good."""
    words = {word.strip() for word in unicodedata.normalize("NFC", text).split("+")}
    return tuple(sorted(word for word in words if word and plain(word) not in GOOD))


@dataclass(frozen=True)
class Row:
    """A row of a CSV: the number of its line, and its cells by column."""

    line: int
    cells: Mapping[str, str]


def read_table(path: Path, key: str, columns: Sequence[str]) -> list[Row]:
    """Rows of a CSV that must have `columns`, without blank ones.

    It may be UTF-8 or UTF-16 with or without a byte order mark, or in the Windows code page, and
    separated by commas, semicolons, tabs or bars. Blanks around cells do not count.

    Args:
        path: of the CSV; its first row names the columns.
        key: configuration key to name in errors.
        columns: names of which none may be missing.

    Raises:
        LtcamError: if the file is missing or does not hold that; it names the line.
    """
    where = f"{key}={path}"
    if not path.is_file():
        raise LtcamError(f"{where}: no such file")
    try:
        text = _decoded(path.read_bytes())
        if declared := re.match(r"sep=(.)\r?\n?", text):  # Excel's own
            text = text[: declared.start()] + "\n" + text[declared.end() :]
        first = next((line for line in text.splitlines() if line.strip()), "")
        separator = declared[1] if declared else _separator(first)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        found = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (ValueError, OSError, csv.Error) as error:
        raise LtcamError(f"{where}: cannot be read as CSV ({error})") from error
    rows = [(line, cells) for line, cells in found if any(cells)]
    wanted = ",".join(columns)
    if not rows:
        raise LtcamError(f"{where}: is empty; its first line must be {wanted}")
    line, head = rows[0][0], [cell.casefold() for cell in rows[0][1]]
    if missing := [name for name in columns if name not in head]:
        raise LtcamError(
            f"{where}, line {line}: column {', '.join(missing)} is missing; "
            f"the first line must name the columns: {wanted}"
        )
    if twice := [name for name in head if name and head.count(name) > 1]:
        raise LtcamError(f"{where}, line {line}: two columns are called {twice[0]}")
    for line, cells in rows:
        if any(cells[len(head) :]):
            raise LtcamError(
                f"{where}, line {line}: has {len(cells)} fields for {len(head)} columns; "
                "put quotes around a field that holds the separator"
            )
    width = len(head)
    return [
        Row(line, dict(zip(head, [*cells[:width], *[""] * (width - len(cells))], strict=True)))
        for line, cells in rows[1:]
    ]


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if content[1:2] == b"\0" or content[:1] == b"\0":  # UTF-16 without its mark
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")  # Excel's; names that this misreads are refused as unknown


def _separator(line: str) -> str:
    try:
        return csv.Sniffer().sniff(line, delimiters=SEPARATORS).delimiter
    except csv.Error:  # one column
        return ","


class Names:
    """The images that the names of a CSV mean.

    A name is an image's, or the end of its file's path, with or without suffix; or a folder's: of
    all images whose names begin with it and a slash.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.by_name = {sample.name.strip(): [sample] for sample in samples}
        self.by_name |= {sample.name: [sample] for sample in samples}
        self.by_folder: dict[str, list[Sample]] = defaultdict(list)
        self.by_file: dict[str, list[tuple[str, Sample]]] = defaultdict(list)
        for sample in samples:
            for folder in list(PurePosixPath(sample.name).parents)[:-1]:
                self.by_folder[folder.as_posix()].append(sample)
            if sample.path is not None:
                for path in (sample.path, sample.path.with_suffix("")):
                    file = file_name(path)
                    self.by_file[PurePosixPath(file).name].append((f"/{file}", sample))

    def find(self, text: str, *, folders: bool = True) -> list[Sample]:
        """Images that a name means: one, or those of a folder; empty if there are none.

        Args:
            text: name.
            folders: whether it may be a folder's.

        Raises:
            ValueError: if it fits several files.
        """
        name = unicodedata.normalize("NFC", text)
        if found := self.by_name.get(name):
            return found
        name = re.sub(r"^(\./)+|/+$", "", name.replace("\\", "/"))  # as Windows writes paths
        of_folder = self.by_folder.get(name) if folders else None
        if found := self.by_name.get(name) or of_folder:
            return found
        ends = self.by_file.get(name.rpartition("/")[2], [])
        fits = [sample for file, sample in ends if file.endswith(f"/{name.lstrip('/')}")]
        if len(fits) > 1:
            raise ValueError(
                f"{text} fits {fits[0].name} and {fits[1].name}; write more of the path"
            )
        return fits

    def nearest(self, text: str) -> str:
        """`; did you mean …?` for a mistyped name; empty if none is near."""
        known: dict[str, str] = {}
        for name in [*self.by_name, *self.by_folder][:MOST_COMPARED]:
            known |= {name.casefold(): name, PurePosixPath(name).name.casefold(): name}
        close = difflib.get_close_matches(text.casefold(), known, n=1)
        return f"; did you mean {known[close[0]]}?" if close else ""


def values_by_name(
    path: Path, rows: Sequence[Row], samples: Sequence[Sample], value_of: Callable[[Row], T]
) -> dict[str, T]:
    """What the rows of a CSV say of the images that they name, by the images' names.

    Args:
        path: of the CSV, for errors.
        rows: of the CSV, with the column `name`.
        samples: images that may be named.
        value_of: gives what a row says, or raises a `ValueError` with the fault.

    Raises:
        LtcamError: naming the line, if its name fits no image or several, or lines contradict.
    """
    names, found, lines = Names(samples), dict[str, T](), dict[str, int]()
    for row in rows:
        name = row.cells["name"]
        try:
            value, images = value_of(row), names.find(name)
            if not images:
                raise ValueError(f"no image for {name or 'an empty name'}{names.nearest(name)}")
            for image in images:
                if found.setdefault(image.name, value) != value:
                    raise ValueError(
                        f"{image.name} stands there twice, and line {lines[image.name]} says "
                        "something else; delete one of them"
                    )
                lines.setdefault(image.name, row.line)
        except ValueError as error:
            raise LtcamError(f"{path}, line {row.line}: {error}") from error
    return found


def read_labels(path: Path, samples: Sequence[Sample]) -> dict[str, int]:
    """Image labels from a CSV `name,label`: 0 or good, 1 or defective; by the images' names.

    Raises:
        LtcamError: if the file is missing, does not hold that, or names other images.
    """

    def label_of(row: Row) -> int:
        text = row.cells["label"]
        if plain(text) not in LABELS:
            raise ValueError(
                f"label of {row.cells['name']} is {text!r}; must be 0 (good) or 1 (defective)"
            )
        return LABELS[plain(text)]

    rows = read_table(path, "dataset.labels", ("name", "label"))
    return values_by_name(path, rows, samples, label_of)


def read_split(path: Path, samples: Sequence[Sample]) -> dict[str, tuple[str, str]]:
    """Part (`train`, `test` or empty) and group of images, from a CSV `name,split[,group]`.

    Raises:
        LtcamError: if the file is missing, does not hold that, or names other images.
    """

    def part_of(row: Row) -> tuple[str, str]:
        part = row.cells["split"].casefold()
        if part not in {"train", "test", ""}:
            raise ValueError(
                f"split of {row.cells['name']} is {row.cells['split']!r}; must be train, test or "
                "empty"
            )
        return part, row.cells.get("group", "")

    rows = read_table(path, "dataset.split_file", ("name", "split"))
    return values_by_name(path, rows, samples, part_of)
