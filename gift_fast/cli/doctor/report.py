"""The report with all sections, as a dictionary and as text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gift_fast.cli.doctor.kernels import backends, cpu
from gift_fast.cli.doctor.machine import compilers, gpus, memory, system, variables
from gift_fast.cli.doctor.missing import missing
from gift_fast.cli.doctor.packages import versions
from gift_fast.cli.doctor.queries import collect, format_error


def examine() -> dict[str, Any]:
    """Examine this installation and this machine; never raises.

    Returns:
        The sections by name, as JSON-compatible values: ``warnings`` is a list of strings,
        ``missing`` a list of dictionaries with ``what``, ``effect`` and ``command``, and every
        other section a dictionary of strings.

    Example:
        >>> list(examine())
        ['versions', 'platform', 'compiler', 'gpu', 'backends', 'cpu', 'memory', 'variables', \
'warnings', 'missing']
    """
    found: dict[str, Any] = {
        "versions": collect(versions),
        "platform": collect(system),
        "compiler": collect(compilers),
        "gpu": collect(gpus),
        "backends": collect(backends),
        "cpu": collect(cpu),
        "memory": collect(memory),
        "variables": collect(variables),
        "warnings": warnings(os.environ),
    }
    try:
        found["missing"] = missing(found)
    except Exception as error:
        found["missing"] = [{"what": "unknown", "effect": format_error(error), "command": ""}]
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
    """Format the report as text; empty sections are omitted, except ``missing``."""
    lines = []
    for name, section in found.items():
        if name == "missing" or not section:
            continue
        if name == "warnings":
            lines += [name, *(f"  {message}" for message in section)]
        else:
            lines += [name, *(f"  {key}: {value}" for key, value in section.items())]
    lines.append("missing")
    for entry in found["missing"]:
        lines.append(f"  {entry['what']}: {entry['effect']}; {entry['command']}")
    if not found["missing"]:
        lines.append("  nothing")
    return "\n".join(lines)
