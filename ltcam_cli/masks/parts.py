"""Parts that others write, found by name; and their options, checked before anything is computed.

An option is a parameter of the part with a default, and its annotation says what it allows:

    def fraction(values, of_maximum: Annotated[float, Field(ge=0, lt=1)] = 0.5): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ltcam_cli.config import allowed, shown
from ltcam_cli.errors import LtcamError, nearest

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def find_part(
    key: str, name: str, builtin: Mapping[str, Callable[..., Any]], group: str
) -> Callable[..., Any]:
    """A function or class by its name.

    Args:
        key: Dotted key of the config, which begins an error's line.
        name: A built-in part, an installed package's entry point, or `module:function`.
        builtin: Our parts by name.
        group: Group of the entry points.

    Raises:
        LtcamError: if there is none of this name, or it cannot be imported.
    """
    if name in builtin:
        return builtin[name]
    target = name
    if ":" not in name:
        points = {point.name: point.value for point in entry_points(group=group)}
        if name not in points:
            known = nearest(name, [*builtin, *points])
            raise LtcamError(f"{key}={shown(name)}: unknown{known}; or give module:function")
        target = points[name]
    module_name, _, attribute = target.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever another's module does
        raise LtcamError(
            f"{key}={shown(name)}: {shown(module_name)} cannot be imported ({shown(error)}); "
            "install it, or set PYTHONPATH to its folder"
        ) from error
    part = getattr(module, attribute, None)
    if not callable(part):
        functions = [
            function
            for function, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module_name
        ]
        raise LtcamError(
            f"{key}={shown(name)}: {module_name} has no such function"
            f"{nearest(attribute, functions)}"
        )
    return part


def checked_options(
    key: str, name: str, part: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a part, checked against the names, types and ranges of its signature.

    A leading parameter that can be given by place is the part's input, and no option.

    Raises:
        LtcamError: if an option does not exist, is not set, or has a value that is not allowed.
    """
    annotations = _options(part)
    for option in options:
        if annotations is not None and option not in annotations:
            hint = nearest(option, annotations) if annotations else ""
            raise LtcamError(f"{key}.{option}: {name} has no such option{hint}")
    checked = dict(options)
    for option, (annotation, required) in (annotations or {}).items():
        if option in options:
            checked[option] = _checked(f"{key}.{option}", annotation, options[option])
        elif required:
            raise LtcamError(f"{key}.{option}: is not set; must be {allowed(annotation)}")
    return checked


def _options(part: Callable[..., Any]) -> dict[str, tuple[Any, bool]] | None:
    """Annotation of each option, and whether it has no default; None if any name is taken."""
    try:
        try:
            signature = inspect.signature(part, eval_str=True)
        except NameError:  # an annotation that only type checkers can read
            signature = inspect.signature(part)
    except (ValueError, TypeError):  # of a function in C that tells no parameters
        return None
    parameters = list(signature.parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    if parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY:
        parameters = parameters[1:]
    return {
        parameter.name: (
            Any if isinstance(parameter.annotation, str) else parameter.annotation,
            parameter.default is parameter.empty,
        )
        for parameter in parameters
    }


def _checked(key: str, annotation: Any, value: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return value
    try:
        return TypeAdapter(annotation, config=STRICT).validate_python(value)
    except ValidationError:
        if get_origin(annotation) is Literal and isinstance(value, str):
            known = nearest(value, map(str, get_args(annotation)))
            raise LtcamError(f"{key}={shown(value)}: unknown{known}") from None
        raise LtcamError(f"{key}={shown(value)}: must be {allowed(annotation)}") from None
