"""The benchmark of training: its arithmetic, its rounds, and a run at a toy size."""

import dataclasses
import sys

import pytest

from benchmarks import rounds, train


def test_operations_of_the_default_network_by_hand():
    # 62 x 62 places x 27 products x 32 filters, and 30,752 x 10; two operations a multiply-add,
    # which is done forward, for the kernel and, of the matrix, for its input.
    wanted = (4 * 62 * 62 * 27 * 32 + 6 * 30752 * 10) / 1e9
    assert train.gigaflops(train.CASES["cnn"]) == pytest.approx(wanted)


def test_programs_take_turns(tmp_path):
    log = tmp_path / "log"
    word = "import json, os; open({!r}, 'a').write('{}'); print('noise'); print(json.dumps({{'m': "
    word += "os.environ['MALLOC_MMAP_MAX_']}}))"
    programs = {name: [sys.executable, "-c", word.format(str(log), name)] for name in "ab"}
    assert rounds.run(programs, 2) == {"a": [{"m": "0"}] * 2, "b": [{"m": "0"}] * 2}
    assert log.read_text() == "abab"


def test_a_program_that_fails_is_named():
    with pytest.raises(SystemExit, match="peer: status 3"):
        rounds.run({"peer": [sys.executable, "-c", "raise SystemExit(3)"]}, 1)


def test_a_run_gives_a_rate():
    case = dataclasses.replace(train.CASES["cnn"], side=16, batch=8, window=3, windows=3)
    assert train.ours(case)["images_per_second"] > 0
