"""The command line: one command a study under its own name, and a few more.

Importing this package imports no torch: a command imports what it needs when it is called.
"""

from netopsy.cli.main import main

__all__ = ["main"]
