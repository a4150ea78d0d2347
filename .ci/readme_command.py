"""Prints the n-th ```bash block of a README, which has to be one line: what CI runs.

Run: `python .ci/readme_command.py README.md 1`.
"""

import pathlib
import re
import sys


def command(text: str, number: int) -> str:
    """Returns block `number`, from 1. Raises ValueError if it is not one line, or not there."""
    blocks = re.findall(r"^```bash\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    if not 1 <= number <= len(blocks):
        raise ValueError(f"bash block {number} of {len(blocks)}")
    found = str(blocks[number - 1])
    if "\n" in found:
        raise ValueError(f"not one line: {found}")
    return found


if __name__ == "__main__":
    sys.stdout.write(command(pathlib.Path(sys.argv[1]).read_text(), int(sys.argv[2])) + "\n")
