"""Parts that others write, found by name; and their options, checked before anything is computed.

An option is a parameter of the part with a default, and its annotation says what it allows:

    def fraction(values, of_maximum: Annotated[float, Field(ge=0, lt=1)] = 0.5): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ltcam_cli.config import allowed, shown
from ltcam_cli.errors import LtcamError, nearest

Part = TypeVar("Part", bound=Callable[..., Any])
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def find_part(key: str, name: str, builtin: Mapping[str, Part], group: str) -> Part:
    """A function or class by its name.

    Args:
        key: Dotted key of the config, which begins an error's line.
        name: A built-in part, an installed package's entry point, or `module:function`.
        builtin: Our parts by name.
        group: Group of the entry points.

    Raises:
        LtcamError: If there is none of this name, or it cannot be imported.
    """
    if name in builtin:
        return builtin[name]
    target = name
    if ":" not in name:
        points = {point.name: point.value for point in entry_points(group=group)}
        if name not in points:
            hint = nearest(name, [*builtin, *points])
            raise LtcamError(f"{key}={shown(name)}: unknown{hint}; or give module:function")
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
        public = [each for each, value in vars(module).items() if callable(value)]
        raise LtcamError(
            f"{key}={shown(name)}: {module_name} has no such function"
            f"{nearest(attribute, (each for each in public if not each.startswith('_')))}"
        )
    return part


def checked_options(
    key: str, name: str, part: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of a part, checked against the names, types and ranges of its signature.

    A leading parameter that can be given by place is the part's input, and no option.

    Raises:
        LtcamError: If an option does not exist, is not set, or has a value that is not allowed.
    """
    parameters = options_of(part)
    if parameters is None:
        return dict(options)
    for option in options:
        if option not in parameters:
            hint = nearest(option, parameters) if parameters else ""
            raise LtcamError(f"{key}.{option}: {name} has no such option{hint}")
    checked = dict(options)
    for option, parameter in parameters.items():
        if option in options:
            checked[option] = _checked(f"{key}.{option}", parameter.annotation, options[option])
        elif parameter.default is parameter.empty:
            raise LtcamError(f"{key}.{option}: is not set; must be {allowed(parameter.annotation)}")
    return checked


@cache
def options_of(part: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Options of a part by name, with evaluated annotations; None if it takes any name."""
    try:
        parameters = list(inspect.signature(part).parameters.values())
    except (ValueError, TypeError):  # a function in C tells no parameters
        return None
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return None
    if parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY:
        parameters = parameters[1:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        each.name: each.replace(annotation=_annotation(part, each))
        for each in parameters
        if each.kind in named
    }


def _annotation(part: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Evaluated annotation; Any where there is none, or one for type checkers alone."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        function = part.__init__ if inspect.isclass(part) else part
        try:
            return eval(annotation, getattr(function, "__globals__", {}))
        except Exception:  # whatever another's annotation does
            return Any
    return Any if annotation is parameter.empty else annotation


def _checked(key: str, annotation: Any, value: Any) -> Any:
    try:
        return TypeAdapter(annotation, config=STRICT).validate_python(value)
    except ValidationError:
        if get_origin(annotation) is Literal and isinstance(value, str):
            hint = nearest(value, map(str, get_args(annotation)))
            raise LtcamError(f"{key}={shown(value)}: unknown{hint}") from None
        raise LtcamError(f"{key}={shown(value)}: must be {allowed(annotation)}") from None
