"""`python -m polchain`: the command line."""

import sys

from polchain.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
