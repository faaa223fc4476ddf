"""The words that docs/terms.md asks to avoid are used nowhere."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SECTION = "## Words to avoid"

PAGES = ("*.md", "docs/**/*.md", "benchmarks/README.md")
PYTHON = ("gift_fast/**/*.py", "benchmarks/*.py", "examples/**/*.py")
OTHER = (
    "gift_fast/**/*.yaml",
    "gift_fast/**/*.html",
    "csrc/**/*.cu*",
    "csrc/**/*.h",
    "csrc/**/*.cpp",
)

PROSE = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def avoided() -> list[str]:
    """The phrases in the first column of the table; ``*`` stands for any ending of a word."""
    text = (ROOT / "docs/terms.md").read_text(encoding="utf-8")
    rows = text.partition(SECTION)[2].partition("\n## ")[0].splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| ")][1:]
    return [phrase.strip() for cell in cells for phrase in cell.split(",")]


def pattern(phrases: list[str]) -> re.Pattern[str]:
    """Matches any of the phrases as whole words, but not as parts of an identifier."""
    words = "|".join(re.escape(phrase).replace(r"\*", "[a-z]*") for phrase in phrases)
    return re.compile(rf"(?<![\w`\"'{{=-])(?:{words})(?![\w`=])", re.IGNORECASE)


def files(patterns: tuple[str, ...]) -> list[str]:
    found = {path.relative_to(ROOT).as_posix() for p in patterns for path in ROOT.glob(p)}
    return sorted(found)


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of prose: comments and strings of Python files, all of other files."""
    text = path.read_text(encoding="utf-8")
    if path.name == "terms.md":
        text = text.partition(SECTION)[0]
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in PROSE:
            yield from enumerate(token.string.splitlines(), token.start[0])


def found_in(path: Path, words: re.Pattern[str]) -> list[str]:
    return [
        f"{path.name}:{number}: {match[0]!r}"
        for number, line in prose_of(path)
        for match in words.finditer(line)
    ]


@pytest.mark.parametrize("name", files(PAGES + PYTHON + OTHER))
def test_no_file_uses_a_word_to_avoid(name):
    found = found_in(ROOT / name, pattern(avoided()))
    assert not found, f"docs/terms.md says what to write instead: {', '.join(found)}"


def test_the_check_finds_phrases_in_prose_and_leaves_identifiers_alone(tmp_path):
    words = pattern(["images a class", "normalis*", "heldout"])
    source = tmp_path / "module.py"
    source.write_text(
        '"""Ten images a class."""\n\nheldout = 1  # Normalisation\nname = "heldout"\n'
        "normalised = f'{name}:heldout={heldout}, heldout images'\n"
    )
    assert [line.split(": ")[1] for line in found_in(source, words)] == [
        *("'images a class'", "'Normalisation'", "'heldout'"),
    ]


def test_the_list_is_read_from_the_page():
    assert "told apart" in avoided()
    assert len(avoided()) > 20
