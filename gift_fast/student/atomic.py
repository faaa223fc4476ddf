"""Files that are either whole or absent."""

from __future__ import annotations

import glob
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ABANDONED = 3600.0
"""Seconds without a write after which a temporary file is taken for a killed process's."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` to write to, and puts it in the place of ``path``.

    The file appears under its name only when the block has ended and its bytes are on the disk.
    When the block raises, the temporary file is removed and ``path`` stays as it was. A killed
    process leaves its temporary file; a later write to the same path removes it.

    Raises:
        OSError: the block raised an OSError or RuntimeError, which is what ``torch.save`` raises on
            a full disk; the message names ``path``.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "answer.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("42")
        >>> target.read_text()
        '42'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path)
    # Machines that share the folder may have processes of the same number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        hint = "; is the disk full?" if isinstance(error, RuntimeError) else ""
        raise OSError(f"{path} could not be written: {error}{hint}") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(path: Path) -> None:
    """Removes what killed processes left of ``path``, and nothing that is still being written."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - temporary.stat().st_mtime > ABANDONED:
                temporary.unlink()
