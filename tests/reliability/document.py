"""Writes the sections of docs/reliability.md, each of which a script in this folder measures."""

from __future__ import annotations

import platform
import re
import subprocess
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"


def write_section(name: str, text: str, *, document: Path = DOCUMENT) -> None:
    """Replaces what stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

    Args:
        name: of the section; the document must hold its two markers, once.
        text: Markdown; the commit, the date and the machine are added below it.
        document: the file.

    Raises:
        ValueError: the document does not hold the section once.
    """
    before = document.read_text(encoding="utf-8")
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(before)) != 1:
        raise ValueError(f"{document} must hold the section {name!r} once")
    section = f"{begin}{text.strip()}\n\n{provenance()}\n{end}"
    document.write_text(pattern.sub(lambda _: section, before), encoding="utf-8")


def provenance() -> str:
    """The commit, the date and the machine, in one line."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return f"Commit {commit}, {date.today()}, {processor()}, Python {platform.python_version()}."


def processor() -> str:
    """The processor's name, as the kernel gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = cpuinfo.exists() and re.search(r"model name\s*: (.+)", cpuinfo.read_text())
    return found[1] if found else platform.processor() or platform.machine()
