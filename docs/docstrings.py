"""A Griffe extension that turns roles, formulas and examples of docstrings into Markdown."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|data|exc|func|meth|mod):`~?([^`]+)`")
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)  # the section that Griffe reads doctests in
FORMULA = re.compile(r"^( *)\.\. math::(.*)((?:\n\1 +.*|\n *(?=\n\1 ))*)", re.MULTILINE)


def _fence(match: re.Match[str]) -> str:
    body = textwrap.dedent(match.group(2).strip() + textwrap.dedent(match.group(3)))
    return textwrap.indent(f"```math\n{body.strip()}\n```", match.group(1))


class Docstrings(griffe.Extension):
    """Turns what Sphinx understands in a docstring into Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            text = FORMULA.sub(_fence, obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub("Examples:", ROLE.sub(r"`\1`", text))
