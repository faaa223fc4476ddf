"""The ``gift-fast`` command.

``commands`` lists the commands; each has a module or a folder of its name. ``main`` parses the
command line and runs one of them.
"""

# From here on the attribute gift_fast.cli.main is the function, which the entry point names; what
# else the module of that name holds is imported with `from gift_fast.cli.main import ...`.
from gift_fast.cli.main import main

__all__ = ["main"]
