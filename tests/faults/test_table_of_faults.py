"""docs/reliability.md: every fault has its row, and every test it names is there."""

import ast
import re

from tests.tiny import ROOT

TEXT = (ROOT / "docs" / "reliability.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.partition("## Faults")[2].splitlines()
    if re.match(r"\| \d", line)
]


def functions_of(path):
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_is_there_once_and_in_order():
    assert [row[0] for row in ROWS] == [str(number) for number in range(1, 48)]
    assert {len(row) for row in ROWS} == {5}


def test_every_test_that_is_named_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 80
    for path, name in named:
        assert name in functions_of(path), f"{path}::{name}"


def test_a_row_names_a_test_or_says_that_it_does_not_apply():
    for row in ROWS:
        applies = not row[2].startswith("does not apply")
        assert not applies or ("::" in row[4] and row[2]), row[0]
