"""Typed config dataclasses that refuse nonsense in one line. Importable by every station.

    @config("trainer")
    class TrainerConfig:
        \"\"\"How a classifier is trained.

        Attributes:
            epochs: Passes over the images.
            workers: Loading processes; null: none on CPUs.
        \"\"\"

        epochs: Annotated[int, Field(ge=1, le=10_000)] = 20
        workers: Annotated[Workers | None, NO_EFFECT] = None

Defaults stand in these classes alone; a config file names what differs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field as DataclassField
from dataclasses import field, fields, is_dataclass
from functools import cache, wraps
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from ltcam_cli.errors import LtcamError, nearest

T = TypeVar("T")


class NoEffect:
    """Marks a field that changes no result, such as a path or a number of processes.

    It is left out of identities: see `effective`.
    """


class UnlessDefault:
    """Marks a field that older configs lack: it is left out of identities at its default."""


class Says(str):
    """What a field allows, in words, where its type does not say it."""


NO_EFFECT = NoEffect()
UNLESS_DEFAULT = UnlessDefault()


LONGEST_NAME = 100  # characters of a name that a folder's name is made of


def _folder_name(name: str) -> str:
    if not name or name != as_folder_name(name) or name != PurePath(name).name:
        raise ValueError
    return name


def as_folder_name(text: str) -> str:
    """A text as a `FolderName`: separators and control characters as `_`, no first `.` or `-`.

    Empty if nothing is left.
    """
    text = re.sub(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]", "_", text)
    return text.strip().lstrip(".-").strip()[:LONGEST_NAME].rstrip()


def holds_text(annotation: Any) -> bool:
    """Whether a field's annotation is of texts, null or not."""
    kind, _ = _unpacked(annotation)
    if get_origin(kind) in {Union, UnionType}:
        return all(each is NoneType or holds_text(each) for each in get_args(kind))
    return kind is str


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Pixels = Annotated[int, Field(ge=0, le=1000)]
Side = Annotated[int, Field(ge=32, le=16384)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Mixed = Literal["auto"] | bool
Workers = Annotated[int, Field(ge=0, le=256)]
FolderName = Annotated[
    str,
    AfterValidator(_folder_name),
    Says("one folder's name, at most 100 characters, without / and not starting with . or -"),
]


@dataclass_transform(kw_only_default=False, frozen_default=True, field_specifiers=(field, Field))
def config(key: str) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen, strictly typed config; a wrong value raises an `LtcamError`.

    Args:
        key: Dotted key of the class in the composed config, e.g. `student.loss`; begins the
            error's line.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = dataclass(
            config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False), frozen=True
        )(cls)
        validated = made.__init__

        @wraps(validated)
        def initialize(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                validated(self, *args, **_built(made, kwargs))
            except ValidationError as error:
                raise LtcamError(_line(made, key, error, kwargs)) from None
            except TypeError as error:  # two values of one field
                raise LtcamError(f"{key}: {error}") from None

        made.__init__ = initialize
        made.__config_key__ = key
        return made

    return decorate


def build(cls: type[T], values: Any) -> T:
    """A config of a mapping.

    Raises:
        LtcamError: if a key does not exist or a value is not allowed; one line that names both.
    """
    if not isinstance(values, Mapping):
        raise LtcamError(f"{cls.__config_key__}={values}: must be a mapping")  # type: ignore[attr-defined]
    return cls(**{str(key): value for key, value in values.items()})


def check_fields(cls: type, values: Mapping[str, Any]) -> None:
    """Refuse values that the annotations of a plain dataclass do not allow, as in a file of others.

    Raises:
        LtcamError: Naming the field.
    """
    hints = _hints(cls)
    for name, value in values.items():
        if name not in hints:
            raise LtcamError(f"{name}: no such field{nearest(name, hints)}")
        rules = ConfigDict(strict=True, allow_inf_nan=False)
        try:
            TypeAdapter(hints[name], config=rules).validate_python(value)
        except ValidationError:
            raise LtcamError(f"{name}={shown(value)}: must be {allowed(hints[name])}") from None


def effective(value: Any) -> Any:
    """What of a config decides results, as plain dictionaries: all fields without `NO_EFFECT`."""
    if is_dataclass(value) and not isinstance(value, type):
        hints = _hints(type(value))
        own = [(f, getattr(value, f.name), get_args(hints[f.name])[1:]) for f in fields(value)]
        return {
            each.name: effective(given)
            for each, given, marks in own
            if NO_EFFECT not in marks and not (UNLESS_DEFAULT in marks and given == each.default)
        }
    if isinstance(value, (list, tuple)):
        return [effective(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): effective(each) for key, each in value.items()}
    return value


def descriptions(cls: type) -> dict[str, str]:
    """Text of each field, from the section `Attributes` of the class's docstring."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        for entry in re.split(r"\n(?=    \S)", text):
            names, colon, words = entry.strip().partition(":")
            if colon and re.fullmatch(r"[\w, ]+", names):
                found |= dict.fromkeys(names.split(", "), " ".join(words.split()))
    return found


def leaves(cls: type, key: str = "") -> Iterator[tuple[str, Any, DataclassField[Any]]]:
    """Dotted key, annotation and field of each leaf of a config class."""
    hints = _hints(cls)
    for each in fields(cls):
        name, inner = f"{key}.{each.name}".lstrip("."), _config_class(hints[each.name])
        if inner is not None:
            yield from leaves(inner, name)
        else:
            yield name, hints[each.name], each


def allowed(annotation: Any) -> str:
    """What a field's annotation allows, in words: `a number above 0 and at most 1, or null`."""
    return _words(*_unpacked(annotation))


def _words(kind: Any, marks: list[Any]) -> str:
    if said := [mark for mark in marks if isinstance(mark, Says)]:
        return str(said[-1])
    if get_origin(kind) in {Union, UnionType}:
        each = [_unpacked(part) for part in get_args(kind)]
        return ", or ".join(dict.fromkeys(_words(part, [*marks, *own]) for part, own in each))
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_origin(kind) is list:
        least = [f" of at least {mark.min_length}" for mark in marks if isinstance(mark, MinLen)]
        return f"a list{''.join(least[-1:])}, each {allowed(get_args(kind)[0])}"
    names: dict[Any, str] = {
        bool: "true or false", int: "a whole number", float: "a number", str: "a text",
        NoneType: "null", dict: "a mapping",
    }  # fmt: skip
    name = names.get(get_origin(kind) or kind, "another value")
    return name + (_bounds(marks) if kind in {int, float} else "")


def _bounds(marks: list[Any]) -> str:
    low = [f"above {m.gt:g}" for m in marks if isinstance(m, Gt)]
    low += [f"of at least {m.ge:g}" for m in marks if isinstance(m, Ge)]
    high = [f"below {m.lt:g}" for m in marks if isinstance(m, Lt)]
    high += [f"at most {m.le:.10g}" for m in marks if isinstance(m, Le)]
    words = " and ".join([*low[-1:], *high[-1:]])
    return f" {words}" if words else ""


def _unpacked(annotation: Any) -> tuple[Any, list[Any]]:
    """The type and the marks of an annotation, those of pydantic's `Field` among them."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    kind, *given = get_args(annotation)
    marks: list[Any] = []
    for mark in given:
        marks += getattr(mark, "metadata", None) or [mark]
    return kind, marks


def _config_class(annotation: Any) -> type | None:
    """The config class that a field holds; None of a leaf."""
    kind, _ = _unpacked(annotation)
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)  # of each base in its own module


def _built(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with mappings of nested configs built; each names its own key in an error."""
    inner = {name: _config_class(kind) for name, kind in _hints(cls).items() if name in values}
    return {
        name: build(kind, value)
        if (kind := inner.get(name)) and not isinstance(value, kind)
        else value
        for name, value in values.items()
    }


def _line(cls: type, key: str, error: ValidationError, values: Mapping[str, Any]) -> str:
    """The first fault, in one line: key, value, what is allowed, nearest name."""
    fault, hints = error.errors(include_url=False)[0], _hints(cls)
    name = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["loc"] and isinstance(fault["loc"][0], int):  # given by place
        name = [each.name for each in fields(cls)][fault["loc"][0]]
    where = f"{key}.{name}".lstrip(".")
    if not name:  # a ValueError of `__post_init__`
        return f"{where}: {' '.join(str(fault['msg']).split())}"
    if name not in hints:
        inner = {part: getattr(v, "__dataclass_fields__", v) for part, v in values.items()}
        homes = [part for part, v in inner.items() if isinstance(v, Mapping) and name in v]
        if homes and not key:
            return f"{where}: no such key; did you mean {homes[0]}.{name}?"
        return f"{where}: no such key{nearest(name, hints)}"
    annotation, value = hints[name], values.get(name, fault["input"])
    if fault["type"] in {"missing", "missing_argument"}:
        return f"{where}: is not set; must be {allowed(annotation)}"
    kind = _unpacked(annotation)[0]
    if get_origin(kind) is Literal and isinstance(value, str):
        return f"{where}={value}: unknown{nearest(value, map(str, get_args(kind)))}"
    return f"{where}={shown(value)}: must be {allowed(annotation)}"


def shown(value: Any) -> str:
    """A value as a user wrote it, in one line of at most 60 characters."""
    words = {"None": "null", "True": "true", "False": "false"}
    text = " ".join(words.get(str(value), str(value)).split())
    text = text.replace(", ", ",") if isinstance(value, (list, tuple)) else text
    return text if len(text) <= 60 else f"{text[:57]}..."
