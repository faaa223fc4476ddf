"""The ``gift-fast`` command: a file per command, listed in :data:`gift_fast.cli.main.COMMANDS`."""

from gift_fast.cli.main import main

__all__ = ["main"]
