"""Why an installation has no compiled kernels for the CPU, and how to get them."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]

REASON = "why-not-built.txt"
"""File that setup.py writes to the package if it compiles nothing, or if compilation fails."""

REBUILD = "pip install --force-reinstall --no-deps --no-cache-dir"
"""Command that rebuilds; without the options, pip would use the cached wheel without kernels."""


def why_not_built(package: Path = PACKAGE) -> str:
    """Why the compiled library is not in the package, and the command that builds it.

    Args:
        package: folder of the installed package.

    Example:
        >>> why_not_built(Path("/usr/lib/python3/site-packages/gift_fast"))
        'the package has no compiled library. To build it: pip install --force-reinstall --no-deps \
--no-cache-dir gift-fast (in a checkout: .)'
    """
    checkout = package.parent
    file = package / REASON
    if file.exists():
        reason = file.read_text(encoding="utf-8").strip()
    elif (checkout / "setup.py").exists():
        return (
            f"{checkout} is a checkout, which hides the installed package; change to another "
            "folder, or install it with pip install -e ."
        )
    else:
        reason = "the package has no compiled library"
    return f"{reason}. To build it: {REBUILD} gift-fast (in a checkout: .)"
