"""`python -m hvdkit`: the same as the `hvdkit` command."""

import sys

from hvdkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
