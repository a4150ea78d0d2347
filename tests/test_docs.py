"""Words that have to agree with the code: the meaning of every key, and the README's commands."""

import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

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
    assert key.meaning.strip() == key.meaning
    assert key.meaning.endswith(".")
    own = set(re.split(r"[._]", path))  # to repeat the key's name says nothing
    assert set(re.findall(r"[a-z0-9]+", key.meaning.lower())) - own
    assert key.rule.words.strip() == key.rule.words
    assert key.rule.words


def test_sections_are_those_of_the_command_line():
    assert list(SCHEMA) == [
        "seed", "data", "model", "loss", "augment", "optim", "train", "eval", "checkpoint", "log",
    ]  # fmt: skip


def test_durations_are_six():
    assert set(config_lib.durations()) == {
        "optim.warmup", "augment.mix_until", "train.total", "eval.every", "checkpoint.every",
        "log.every",
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
    return (ROOT / "README.md").read_text()


def test_the_first_commands_of_the_readme_are_what_ci_takes_from_it():
    command = runpy.run_path(str(ROOT / ".ci" / "readme_command.py"))["command"]
    first, second = (command(readme(), number) for number in (1, 2))
    assert [first + "\n", second + "\n"] == bash_blocks(readme())[:2]
    assert first.endswith("main.py --config=configs/cnn.py")
    assert second.endswith("-m pytest")
    with pytest.raises(ValueError, match="not one line"):
        command("```bash\none\ntwo\n```\n", 1)
    with pytest.raises(ValueError, match="bash block 2 of 1"):
        command("```bash\none\n```\n", 2)


def test_ci_runs_the_first_two_commands_and_stops_at_one_that_fails(tmp_path):
    """The real .ci/run over a README of its own; commands leave a mark instead of training."""
    (tmp_path / ".ci").mkdir()
    for name in ("run", "readme_command.py"):
        shutil.copy(ROOT / ".ci" / name, tmp_path / ".ci" / name)
    check = tmp_path / ".ci" / "check"
    check.write_text("#!/bin/sh\necho check >> ran\n")
    check.chmod(0o755)
    make = 'mkdir -p .venv/bin && ln -s "$(type -P true)" .venv/bin/python && echo one >> ran'

    def ci(second):
        blocks = "".join(f"```bash\n{c}\n```\n" for c in (make, second, "echo three >> ran"))
        (tmp_path / "README.md").write_text(blocks)
        (tmp_path / "ran").unlink(missing_ok=True)
        done = subprocess.run(
            [tmp_path / ".ci" / "run"], env=os.environ | {"PYTHON": sys.executable},
            capture_output=True, text=True,
        )  # fmt: skip
        return done, (tmp_path / "ran").read_text().split()

    done, ran = ci("echo two >> ran")
    assert done.returncode == 0, done.stderr
    # The commands come a second time where the machine has a Python 3.12 besides.
    assert ran in (["one", "two", "check"], ["one", "two", "check", "one", "two"])
    done, ran = ci("false")
    assert done.returncode != 0
    assert ran == ["one"]


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
