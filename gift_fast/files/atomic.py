"""Files that are either whole or absent."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gift_fast.process.errors import DISK_FULL

TORCH_WRITER = ("inline_container", "PytorchStreamWriter", "iostream error", "unexpected pos")
"""What the RuntimeErrors of ``torch.save`` say where a file cannot be written to its end."""

ABANDONED = 3600.0
"""Seconds without a write after which a temporary file is taken for a killed process's."""


class NotWritten(OSError):  # noqa: N818, it says what has happened
    """A file that could not be written: ``errno``, and the whole message as ``strerror``.

    Example:
        >>> str(NotWritten(28, "a.json could not be written: the disk is full"))
        'a.json could not be written: the disk is full'
    """

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` to write to, and puts it in the place of ``path``.

    The file appears under its name only when the block has ended and its bytes are on the disk.
    When the block raises, the temporary file is removed and ``path`` stays as it was. A killed
    process leaves its temporary file; a later write to the same path removes it.

    Raises:
        NotWritten: the block raised an OSError, or the RuntimeError that ``torch.save`` raises
            where a disk is full. This is an OSError; the message names ``path``, and ``errno`` is
            kept.

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
        raise not_written(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def not_written(path: Path, error: OSError | RuntimeError) -> Exception:
    """What to raise for an error while ``path`` was written; what is no such error stays as it is.

    torch's writer tells neither the file nor the reason: "unexpected pos 704 vs 598" is what it
    says of a full disk, so the folder is tried.
    """
    reason = str(error)
    if isinstance(error, OSError):
        number = error.errno
    elif any(text in reason for text in TORCH_WRITER):
        number = errno_of_a_write(path.parent)
        reason = reason.partition("\n")[0]
    else:
        return error
    with suppress(OSError):
        free = f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free there"
        if number in DISK_FULL:
            reason = f"the disk is full, {free}. Free some space and run the same command again"
        elif isinstance(error, RuntimeError):
            reason += f"; is the disk full? {free}"
    return NotWritten(number, f"{path} could not be written: {reason}")


def errno_of_a_write(folder: Path) -> int | None:
    """What the system says to a mebibyte in a folder: None where it can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


def remove_abandoned(path: Path) -> None:
    """Removes what killed processes left of ``path``, and nothing that is still being written."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - temporary.stat().st_mtime > ABANDONED:
                temporary.unlink()
