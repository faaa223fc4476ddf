"""Atomic writes: a file appears under its name only when it is complete."""

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
"""Substrings of the RuntimeErrors that ``torch.save`` raises if it cannot write a whole file."""

ABANDONED = 3600.0
"""Seconds without a write after which a temporary file counts as left by a killed process."""


class NotWritten(OSError):  # noqa: N818, it says what has happened
    """Raised when a file could not be written; ``strerror`` is the whole message.

    Example:
        >>> str(NotWritten(28, "a.json could not be written: the disk is full"))
        'a.json could not be written: the disk is full'
    """

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` at the end of the block.

    The file appears under its name only after the block has ended and its contents are on disk.
    If the block raises, the temporary file is removed and ``path`` is unchanged. A killed process
    leaves its temporary file, which a later write to the same path removes.

    Raises:
        NotWritten: the block raised an OSError, or the RuntimeError that ``torch.save`` raises if
            the disk is full. It is a subclass of OSError; its message names ``path``, and ``errno``
            is kept.

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
    # The name is random because process ids are not unique among machines that share a folder.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_error(path: Path, error: OSError | RuntimeError) -> Exception:
    """The exception to raise for an error while ``path`` was written; other errors are unchanged.

    torch's writer names neither the file nor the reason: it reports "unexpected pos 704 vs 598" for
    a full disk. The reason is found by a test write to the same folder.
    """
    reason = str(error)
    if isinstance(error, OSError):
        number = error.errno
    elif any(text in reason for text in TORCH_WRITER):
        number = errno_of_test_write(path.parent)
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


def errno_of_test_write(folder: Path) -> int | None:
    """Write one MiB to a folder and return the errno, or None if it succeeds."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


def remove_abandoned(path: Path) -> None:
    """Remove temporary files of ``path`` that killed processes left; files in use are kept."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(FileNotFoundError):  # another process removed it
            if time.time() - temporary.stat().st_mtime > ABANDONED:
                temporary.unlink()
