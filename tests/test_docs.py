"""Words that have to agree with the code: the meaning of every key, and the README's commands."""

import pathlib
import re

import pytest

from imgclass import config as config_lib
from imgclass.schema import SCHEMA, Key, markdown

ROOT = pathlib.Path(__file__).parent.parent
KEYS = [
    (f"{section}.{name}", key)
    for section, entry in SCHEMA.items()
    for name, key in ({"": entry} if isinstance(entry, Key) else entry).items()
]


@pytest.mark.parametrize(("path", "key"), KEYS, ids=[path for path, _ in KEYS])
def test_every_key_says_what_it_means(path, key):
    assert len(key.meaning) >= 10 or "," in key.meaning or key.meaning.endswith(".")
    assert key.meaning.strip() == key.meaning
    assert key.meaning.endswith((".", "'"))
    assert key.rule.words


def test_sections_are_those_of_the_command_line():
    assert list(SCHEMA) == [
        "seed", "data", "model", "loss", "augment", "optim", "train", "eval", "checkpoint", "log",
    ]  # fmt: skip


def test_durations_are_five():
    assert set(config_lib.durations()) == {
        "optim.warmup", "train.total", "eval.every", "checkpoint.every", "log.every",
    }  # fmt: skip


def test_the_table_of_keys_is_that_of_the_schema():
    text = (ROOT / "docs" / "config.md").read_text()
    assert text == markdown(), "run: python -m imgclass.schema > docs/config.md"
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(KEYS)
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {6}  # 4 cells between bars


def bash_blocks(text):
    return re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def readme():
    path = ROOT / "README.md"
    if not path.exists():
        pytest.skip("no README.md yet")
    return path.read_text()


def test_the_first_commands_of_the_readme_are_run_by_ci():
    blocks = bash_blocks(readme())
    assert len(blocks) >= 2
    run = (ROOT / ".ci" / "run").read_text()
    for line in "".join(blocks[:2]).splitlines():
        command = line.split("  #")[0].strip()
        if command and not command.startswith("#"):
            assert command in run, f"{command!r} of README.md is not in .ci/run"


def test_the_readme_names_only_keys_flags_and_configs_that_exist():
    text = readme()
    kinds = config_lib.kinds()
    for key in re.findall(r"--(?:no)?config\.([a-z0-9_.]+)", text):
        assert key.rstrip(".") in kinds, key
    for name in re.findall(r"configs/([a-z0-9_]+\.py)", text):
        assert (ROOT / "configs" / name).is_file(), name


def test_bash_blocks_are_found():
    text = "a\n```bash\none\ntwo\n```\n```python\nx\n```\n```bash\nthree\n```\n"
    assert bash_blocks(text) == ["one\ntwo\n", "three\n"]
