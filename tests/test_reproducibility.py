"""A run is a function of its config, seed and data, and of nothing else: the same bits."""

import subprocess

import jax
import numpy as np
import pytest

from imgclass import keys, train
from tests import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def usual(data, tmp_path_factory):
    """The arrays and records of the run that the others are compared with."""
    folder = tmp_path_factory.mktemp("usual")
    train.train_and_evaluate(tiny.config(data, tiny.FULL), folder)
    return tiny.arrays(folder), tiny.records(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"log.every_steps": 4},
        {"eval.every_steps": 2},
        {"checkpoint.every_steps": 1, "checkpoint.keep": 1},
        {"data.threads": 1, "data.feed": "stream", "data.prefetch": 1},
        {"data.threads": 5, "data.feed": "stream", "data.prefetch": 7},
        {"data.feed": "resident", "eval.batch_size": 3},
        {"log.tensorboard": True},
        {"eval.final_test": True},
    ],
    ids=str,
)
def test_what_must_not_matter_does_not(data, tmp_path, usual, changes):
    train.train_and_evaluate(tiny.config(data, tiny.FULL | changes), tmp_path)
    tiny.assert_same_bits(tiny.arrays(tmp_path), usual[0])
    if not changes:
        assert tiny.records(tmp_path) == usual[1]


def test_the_program_is_compiled_no_more_than_once(data, tmp_path, usual):
    """What is logged or saved how often is not part of the program: nothing new is compiled."""
    compiled = []

    def note(event: str, **_) -> None:
        if event.endswith("cache_misses"):
            compiled.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        changes = {"log.every_steps": 5, "checkpoint.every_steps": 2, "eval.every_steps": 3}
        train.train_and_evaluate(tiny.config(data, tiny.FULL | changes), tmp_path / "a")
        assert compiled == []
        wider = tiny.config(data, tiny.FULL | {"model.filters": (5,)})  # the control
        train.train_and_evaluate(wider, tmp_path / "b")
        assert len(compiled) >= 3  # the first state, the train step, the eval step
    finally:
        jax.monitoring.unregister_event_listener(note)


@pytest.mark.parametrize("seed", [1, 2**32, 2**40 + 1])
def test_another_seed_is_another_run(data, tmp_path, usual, seed):
    """2**32 and 0 share their low 32 bits, which is all that jax.random.key looks at."""
    train.train_and_evaluate(tiny.config(data, tiny.FULL | {"seed": seed}), tmp_path)
    found = tiny.arrays(tmp_path)
    assert found["params.head.kernel"].tobytes() != usual[0]["params.head.kernel"].tobytes()
    assert tiny.records(tmp_path)[0]["loss"] != usual[1][0]["loss"]


def test_seeds_with_equal_low_bits_have_their_own_keys():
    seeds = (0, 1, 2**32, 2**32 + 1, 2**33, 2**63 - 1)
    drawn = {tuple(jax.random.key_data(keys.stream(s, "init")).tolist()) for s in seeds}
    assert len(drawn) == len(seeds)


@pytest.mark.slow  # the kills of test_resume.py compare processes in the default run
def test_two_processes_one_after_the_other_give_the_same_bits(data, tmp_path):
    changes = tiny.FULL | {"train.total_steps": 30, "log.every_steps": 10}
    for name in ("a", "b"):
        command = tiny.command(data, tmp_path / name, changes)
        done = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    tiny.assert_same_bits(tiny.arrays(tmp_path / "a"), tiny.arrays(tmp_path / "b"))
    assert tiny.records(tmp_path / "a") == tiny.records(tmp_path / "b")
    assert np.isfinite(tiny.records(tmp_path / "a")[-1]["loss"])
