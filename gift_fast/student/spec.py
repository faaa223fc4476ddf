"""Names with options, such as ``kl:temperature=20,scale_t2=true``, looked up in a registry.

A registry is a dictionary from a name to a plain function. What a user may set from text are the
function's keyword-only parameters; the type of each option is the type of its default.

A name with a dot is the import path of a function of the user's own, which is called like those of
the registry: ``my_package.losses.huber:delta=2``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

Option = bool | int | float | str
T = TypeVar("T")

BOOLEANS = {"true": True, "false": False}


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Splits a specification into its name and its options as written.

    Example:
        >>> split_spec("kl:temperature=20,scale_t2=true")
        ('kl', {'temperature': '20', 'scale_t2': 'true'})
    """
    name, _, tail = spec.partition(":")
    options = {}
    for item in filter(None, tail.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"options are written name:key=value,key=value, got {spec!r}")
        options[key.strip()] = value.strip()
    return name.strip(), options


def read_option(argument: str, text: str, default: Option) -> Option:
    """Reads an option's text as the type of its default; ``argument`` names it in the error."""
    kind = type(default)
    if kind is bool and text.lower() in BOOLEANS:
        return BOOLEANS[text.lower()]
    try:
        if kind is not bool:
            return kind(text)
    except ValueError:
        pass
    expected = "true or false" if kind is bool else f"of type {kind.__name__}"
    raise ValueError(f"{argument} must be {expected}, got {text!r}")


def resolve(
    argument: str, spec: str, registry: Mapping[str, Callable[..., T]]
) -> tuple[Callable[..., T], dict[str, Option]]:
    """Finds the function that a specification names, and all its options, defaults included.

    Args:
        argument: what the specification is for, for the error messages: ``loss``.
        spec: ``name`` or ``name:key=value,key=value``.
        registry: the functions by name.

    Raises:
        TypeError: the specification is not a string.
        ValueError: no such name, no such option, or a value of the wrong type.
    """
    if not isinstance(spec, str):
        raise TypeError(f"{argument} must be a string, got {type(spec).__name__}")
    name, texts = split_spec(spec)
    if name in registry:
        function = registry[name]
    elif "." in name:
        function = imported(argument, name)
    else:
        raise ValueError(
            f"{argument} must be one of {', '.join(sorted(registry))}, or the import path of a "
            f"function, package.module.name; got {name!r}"
        )
    parameters = inspect.signature(function).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for key, text in texts.items():
        if key not in options:
            known = ", ".join(options) or "none"
            raise ValueError(f"{argument} {name!r} has the options: {known}; got {key!r}")
        options[key] = read_option(f"{argument} {name!r}: {key}", text, options[key])
    return function, options


def imported(argument: str, path: str) -> Callable[..., Any]:
    """The function at an import path, ``package.module.name``."""
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{argument} must be importable, got {path!r}: {error}") from error
    if not callable(function):
        raise ValueError(f"{argument} must be a function, {path!r} is {function!r}")
    return cast("Callable[..., Any]", function)


def build(
    argument: str, spec: str, registry: Mapping[str, Callable[..., T]], *positional: object
) -> T:
    """Calls the function that a specification names; see :func:`resolve` for what is raised."""
    function, options = resolve(argument, spec, registry)
    return function(*positional, **options)
