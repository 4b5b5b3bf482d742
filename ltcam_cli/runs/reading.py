"""Files of ours, read whole and in their form; or one line that names the file and the remedy."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import yaml

from ltcam_cli.errors import DamagedFileError, LtcamError
from ltcam_cli.files import read_json, regular

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("ltcam_cli")
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, if it was built with it
# Columns of tables that are texts even where they look like a number, or like none: 007, 1e5, NA.
TEXTS = (
    "run name group path content method layers segmenter images dataset split supervision target "
    "scope form fusion normalize weights backward tta ensemble dtype pipeline checkpoint cell "
    "part refine verdict rule kind predicted_kind"
).split()


class Artefact(Protocol):
    """A run or cell."""

    def check(self) -> None:
        """Refuse it if its files are damaged."""


A = TypeVar("A", bound=Artefact)


def healthy(artefacts: Sequence[A]) -> list[A]:
    """The runs or cells whose files can be read; a line names what is damaged of the others.

    Raises:
        DamagedFileError: If none is left.
    """
    left = []
    for number, artefact in enumerate(artefacts, 1):
        try:
            artefact.check()
            left.append(artefact)
        except DamagedFileError as error:
            if number == len(artefacts) and not left:
                raise
            log.warning("left out: %s", error)
    return left


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Turn what the block raises into an error that names the file that it reads.

    Args:
        path: File.
        remedy: What to do about a file that is damaged or missing; ends the error's line.

    Raises:
        DamagedFileError: If anything is raised, but for errors that name their culprit already.
    """
    try:
        regular(path)
        yield
    except LtcamError:
        raise
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path}: is missing; {remedy}") from error
    except Exception as error:  # parsers raise whatever they like for damaged files
        raise DamagedFileError(f"{path}: is damaged; {remedy}") from error


def read_mapping(
    path: Path,
    remedy: str,
    required: Sequence[str] = (),
    numbers: Sequence[str] = (),
    prefix: str | None = None,
) -> dict[str, Any]:
    """A mapping of a JSON or YAML file.

    Args:
        path: File; its suffix tells which of both.
        remedy: What to do about a damaged file.
        required: Keys that it must have.
        numbers: Keys whose values are numbers or null, where they are there.
        prefix: Beginning of further such keys.

    Raises:
        DamagedFileError: If there is no such file, or it does not hold that.
    """
    reader: Callable[[Path], Any] = read_json if path.suffix == ".json" else _read_yaml
    with reading(path, remedy):
        content = reader(path)
        if not isinstance(content, Mapping):
            raise TypeError
        for key in required:
            content[key]
        further = () if prefix is None else (key for key in content if key.startswith(prefix))
        for key in (*numbers, *further):
            if not isinstance(content.get(key), (int, float, type(None))):
                raise TypeError
        return dict(content)


def _read_yaml(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):  # a part of it may well be YAML, too
        raise ValueError
    return yaml.load(text, SAFE_LOADER)


def read_table(
    path: Path,
    remedy: str,
    required: Sequence[str] = (),
    numbers: Sequence[str] = (),
    **options: Any,
) -> pd.DataFrame:
    """A table of ours: its texts stay as they are, and only an empty field is missing.

    Args:
        path: CSV file.
        remedy: What to do about a damaged file.
        required: Columns that it must have.
        numbers: Columns of numbers, which it must have as well.
        options: Types and converters of columns, as of `parsed_table`.

    Raises:
        DamagedFileError: If there is no such file, it does not hold that, or its end is missing.
    """
    with reading(path, remedy):
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            raise ValueError
        return parsed_table(content, required, numbers, **options)


def parsed_table(
    content: bytes,
    required: Sequence[str] = (),
    numbers: Sequence[str] = (),
    dtype: Any = None,
    converters: Any = None,
) -> pd.DataFrame:
    """A table of the bytes of a CSV file; see `read_table`.

    Args:
        content: Bytes.
        required: Columns that it must have.
        numbers: Columns of numbers, which it must have as well.
        dtype: Types of columns, as of `pandas.read_csv`; None: the `TEXTS` are str.
        converters: Functions that read columns, as of `pandas.read_csv`.

    Raises:
        ValueError: If it does not hold that.
    """
    import pandas as pd

    if b"\0" in content:
        raise ValueError
    dtype = dict.fromkeys(TEXTS, str) if dtype is None else dtype
    table = pd.read_csv(
        io.BytesIO(content), dtype=dtype, converters=converters,
        keep_default_na=False, na_values=[""], index_col=False,
    )  # fmt: skip
    if not {*required, *numbers} <= {*table.columns}:
        raise ValueError
    if len(table) and not all(pd.api.types.is_numeric_dtype(table[name]) for name in numbers):
        raise ValueError
    return table
