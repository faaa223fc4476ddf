"""Runs the command as ``python -m gift_fast.cli``."""

import sys

from gift_fast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
