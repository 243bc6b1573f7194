"""`python -m netopsy` is the command `netopsy`."""

from netopsy.cli import main

if __name__ == "__main__":
    main()
