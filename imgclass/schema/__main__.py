"""Prints docs/config.md."""

import sys

from imgclass.schema import markdown

sys.stdout.write(markdown())
