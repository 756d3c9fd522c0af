"""`polchain`, and `python -m polchain`: the command line."""

import sys

__all__ = ["run"]


def run() -> int:
    """Run the command line of this process; returns the exit code."""
    try:
        from polchain.cli.app import main
    except KeyboardInterrupt:  # imports take a moment, and nothing has begun
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
