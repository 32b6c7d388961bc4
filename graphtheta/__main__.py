"""`python -m graphtheta`: the command line, where scripts are not on the path."""

from __future__ import annotations

import sys

from graphtheta.cli import main

if __name__ == "__main__":
    sys.exit(main())
