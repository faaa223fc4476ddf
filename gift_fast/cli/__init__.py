"""The ``gift-fast`` command.

``commands`` lists the commands; each has a module or a folder of its name. ``main`` parses the
command line and runs one of them.
"""

# The attribute gift_fast.cli.main is now the function, which the entry point needs. Other names of
# the module main are imported with `from gift_fast.cli.main import ...`.
from gift_fast.cli.main import main

__all__ = ["main"]
