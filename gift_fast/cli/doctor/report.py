"""All answers in one report, as a dictionary and as text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gift_fast.cli.doctor.answers import answered, reason
from gift_fast.cli.doctor.kernels import backends, cpu
from gift_fast.cli.doctor.machine import compilers, gpus, memory, system, variables
from gift_fast.cli.doctor.missing import missing
from gift_fast.cli.doctor.packages import versions


def examine() -> dict[str, Any]:
    """Examine this installation and this machine; never raises.

    Returns:
        The sections by name, as values that JSON can hold: ``warnings`` is a list of texts,
        ``missing`` a list of dictionaries with ``what``, ``effect`` and ``command``, and every
        other section a dictionary of texts.

    Example:
        >>> list(examine())
        ['versions', 'platform', 'compiler', 'gpu', 'backends', 'cpu', 'memory', 'variables', \
'warnings', 'missing']
    """
    found: dict[str, Any] = {
        "versions": answered(versions),
        "platform": answered(system),
        "compiler": answered(compilers),
        "gpu": answered(gpus),
        "backends": answered(backends),
        "cpu": answered(cpu),
        "memory": answered(memory),
        "variables": answered(variables),
        "warnings": warnings(os.environ),
    }
    try:
        found["missing"] = missing(found)
    except Exception as error:
        found["missing"] = [{"what": "unknown", "effect": reason(error), "command": ""}]
    return found


def warnings(environment: Mapping[str, str]) -> list[str]:
    """List settings of the environment that are known to cause errors."""
    if "ATEN_CPU_CAPABILITY" not in environment:
        return []
    return [
        "ATEN_CPU_CAPABILITY is set: torch.compile shares its cache of compiled kernels between "
        "processes, and torch 2.14 can return NaN if they set this variable differently; use "
        "another TORCHINDUCTOR_CACHE_DIR for each of its values"
    ]


def as_text(found: Mapping[str, Any]) -> str:
    """Format the report as lines of text; empty sections are left out, except ``missing``."""
    lines = []
    for section, answers in found.items():
        if section == "missing" or not answers:
            continue
        if section == "warnings":
            lines += [section, *(f"  {text}" for text in answers)]
        else:
            lines += [section, *(f"  {name}: {answer}" for name, answer in answers.items())]
    lines.append("missing")
    for lack in found["missing"]:
        lines.append(f"  {lack['what']}: {lack['effect']}; {lack['command']}")
    if not found["missing"]:
        lines.append("  nothing")
    return "\n".join(lines)
