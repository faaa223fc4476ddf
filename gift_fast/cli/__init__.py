"""The ``gift-fast`` command: a module per command, and ``main``, which lists and runs them."""

# From here on the attribute gift_fast.cli.main is the function, which the entry point names; what
# else the module of that name holds is imported with `from gift_fast.cli.main import ...`.
from gift_fast.cli.main import main

__all__ = ["main"]
