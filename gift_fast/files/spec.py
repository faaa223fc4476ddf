"""Names with options, such as ``kl:temperature=20,scale_t2=true``, looked up in a registry.

A registry is a dictionary of plain functions by name. The options are the function's keyword-only
parameters, and the type of each option is the type of its default.

A name with a dot is the import path of a user-defined function, which is called like those of the
registry: ``my_package.losses.huber:delta=2``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

Option = bool | int | float | str
T = TypeVar("T")

BOOLEANS = {"true": True, "false": False}


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split a specification into its name and its unparsed options.

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


def take_option(spec: str, key: str) -> tuple[str, str | None]:
    """Remove an option from a specification; return the rest and the option's value or None.

    Example:
        >>> take_option("digits:validation=300,resize=16", "validation")
        ('digits:resize=16', '300')
    """
    name, options = split_spec(spec)
    if key not in options:
        return spec, None
    text = options.pop(key)
    tail = ",".join(f"{other}={value}" for other, value in options.items())
    return f"{name}:{tail}" if tail else name, text


def read_option(argument: str, text: str, default: Option) -> Option:
    """Convert the text of an option to the type of its default.

    Args:
        argument: name of the option, for error messages.
        text: the value as the user wrote it.
        default: the default value.
    """
    kind = type(default)
    if kind not in (bool, int, float, str):
        raise ValueError(
            f"{argument} must have a default of type bool, int, float or str to be settable, got "
            f"{default!r}"
        )
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
    """Look up the function of a specification, and all of its options including defaults.

    Args:
        argument: name of the argument, for error messages: ``loss``.
        spec: ``name`` or ``name:key=value,key=value``.
        registry: the functions by name.

    Raises:
        TypeError: the specification is not a string.
        ValueError: unknown name, unknown option, or a value of the wrong type; or a user-defined
            function that cannot be imported or has an option without a default.
    """
    if not isinstance(spec, str):
        raise TypeError(f"{argument} must be a string, got {type(spec).__name__}")
    name, given = split_spec(spec)
    if name in registry:
        function = registry[name]
    elif "." in name:
        function = import_function(argument, name)
    else:
        raise ValueError(
            f"{argument} must be one of {', '.join(sorted(registry))}, or the import path of a "
            f"function, package.module.name; got {name!r}{nearest(name, registry)}"
        )
    parameters = inspect.signature(function).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for key, default in options.items():
        if default is inspect.Parameter.empty:
            raise ValueError(
                f"{argument} {name!r}: {key} must have a default, from which its type is inferred; "
                "it has none"
            )
    for key, text in given.items():
        if key not in options:
            known = ", ".join(options) or "none"
            raise ValueError(
                f"{argument} {name!r} has the options: {known}; got {key!r}{nearest(key, options)}"
            )
        options[key] = read_option(f"{argument} {name!r}: {key}", text, options[key])
    return function, options


def nearest(text: str, known: Iterable[str]) -> str:
    """The suggestion "did you mean" for an error message, or "" if no known name is similar.

    Example:
        >>> nearest("gitf", ["kl", "gift"]), nearest("huber", ["kl", "gift"])
        ("; did you mean 'gift'?", '')
    """
    close = difflib.get_close_matches(text, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def canonical(argument: str, spec: str, registry: Mapping[str, Callable[..., T]]) -> str:
    """The canonical form of a specification: non-default options only, in the function's order.

    See :func:`resolve` for the errors.

    Example:
        >>> def kl(*, temperature: float = 20.0, scale_t2: bool = False) -> None: ...
        >>> canonical("loss", "kl:scale_t2=True,temperature=20", {"kl": kl})
        'kl:scale_t2=true'
    """
    function, options = resolve(argument, spec, registry)
    parameters = inspect.signature(function).parameters
    changed = {key: value for key, value in options.items() if value != parameters[key].default}
    return format_spec(split_spec(spec)[0], changed)


def with_defaults(argument: str, spec: str, registry: Mapping[str, Callable[..., T]]) -> str:
    """A specification with all of its options; see :func:`resolve` for the errors.

    Example:
        >>> def kl(*, temperature: float = 20.0, scale_t2: bool = False) -> None: ...
        >>> with_defaults("loss", "kl:scale_t2=True", {"kl": kl})
        'kl:temperature=20.0,scale_t2=true'
    """
    return format_spec(split_spec(spec)[0], resolve(argument, spec, registry)[1])


def format_spec(name: str, options: Mapping[str, Option]) -> str:
    """Format a name and its options as a specification."""
    items = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in options.items()
    ]
    return f"{name}:{','.join(items)}" if items else name


def import_function(argument: str, path: str) -> Callable[..., Any]:
    """Import the function at ``package.module.name``."""
    module, _, name = path.rpartition(".")
    try:
        if not all(path.split(".")):
            raise ValueError("a part between the dots is empty")
        function = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # an import executes arbitrary code
        raise ValueError(
            f"{argument} must be importable, got {path!r}, which raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise ValueError(f"{argument} must be a function, {path!r} is {function!r}")
    return cast("Callable[..., Any]", function)


def build(
    argument: str, spec: str, registry: Mapping[str, Callable[..., T]], *positional: object
) -> T:
    """Call the function of a specification with its options and the ``positional`` arguments.

    Raises:
        ValueError: see :func:`resolve`; or a user-defined function does not accept the
            ``positional`` arguments.
    """
    function, options = resolve(argument, spec, registry)
    signature = inspect.signature(function)
    try:
        signature.bind(*positional, **options)
    except TypeError as error:
        raise ValueError(
            f"{argument} {split_spec(spec)[0]!r} must accept {len(positional)} positional "
            f"arguments and keyword-only options; its signature is {signature}: {error}"
        ) from error
    return function(*positional, **options)
