"""`python -m imgclass`, where the command `imgclass` is not on the path."""

from imgclass import cli

if __name__ == "__main__":
    cli.console()
