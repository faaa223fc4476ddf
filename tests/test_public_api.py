"""The public API: names and signatures that `public_api.txt` lists; see CONTRIBUTING.md.

A deliberate change is recorded with: python tests/test_public_api.py > tests/public_api.txt
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

LISTED = Path(__file__).with_name("public_api.txt")

PACKAGES = (
    *("gift_fast", "gift_fast.auditing", "gift_fast.data", "gift_fast.data.datasets"),
    *("gift_fast.data.distilled", "gift_fast.distillation", "gift_fast.evaluation"),
    *("gift_fast.loss", "gift_fast.training"),
)


def parameter(of: inspect.Parameter) -> str:
    """A parameter without its type; defaults that are no plain values are ``...``."""
    stars = {of.VAR_POSITIONAL: "*", of.VAR_KEYWORD: "**"}.get(of.kind, "")
    if of.default is of.empty:
        return stars + of.name
    plain = of.default is None or isinstance(of.default, bool | int | float | str)
    return f"{of.name}={of.default!r}" if plain else f"{of.name}=..."


def signature(value: object) -> str:
    """The parameters of a function or class; empty for other values."""
    if not callable(value):
        return ""
    texts, keyword = [], False
    for of in inspect.signature(value).parameters.values():
        if of.kind is of.VAR_POSITIONAL:
            keyword = True
        if of.kind is of.KEYWORD_ONLY and not keyword:
            texts.append("*")
            keyword = True
        texts.append(parameter(of))
    return f"({', '.join(texts)})"


def api() -> list[str]:
    """Every public name with its signature, a line each."""
    return [
        f"{package}.{name}{signature(getattr(module, name))}"
        for package in PACKAGES
        if (module := import_module(package))
        for name in sorted(getattr(module, "__all__", ()))
    ]


def test_names_and_signatures_are_as_listed():
    assert api() == LISTED.read_text(encoding="utf-8").splitlines()


def test_a_signature_shows_what_a_caller_has_to_know():
    def function(first, second=1, *, third="x", fourth=(), **rest): ...

    assert signature(function) == "(first, second=1, *, third='x', fourth=..., **rest)"


if __name__ == "__main__":
    print("\n".join(api()))
