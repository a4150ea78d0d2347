"""What a process makes of the others' signs of life, with a store of our own.

Two real processes are in test_processes.py.
"""

import json
import time

import jax
import pytest

from imgclass import peers
from imgclass.errors import UsageError, UserError


class Store(dict):
    """The two calls of JAX's key-value store that are used."""

    def key_value_set(self, key, value, allow_overwrite):
        assert allow_overwrite
        self[key] = value

    def key_value_dir_get(self, prefix):
        return [(key, value) for key, value in list(self.items()) if key.startswith(prefix)]


@pytest.fixture
def store(monkeypatch):
    """A store, quick intervals, and `store.left`: what the process would have ended with."""
    made = Store()
    made.left = []
    for name, value in {"_heartbeat": 0.6, "INTERVAL": 0.05, "GRACE": 0.3}.items():
        monkeypatch.setattr(peers, name, value)
    monkeypatch.setattr(peers, "_client", lambda: made)
    monkeypatch.setattr(peers.watchdog, "leave", lambda *args, **_: made.left.append(args[:2]))
    monkeypatch.setattr(peers.atexit, "register", lambda *_: None)
    monkeypatch.setattr(jax, "process_count", lambda *_: 2)
    monkeypatch.setattr(jax, "process_index", lambda *_: 0)
    return made


def beat(store, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        store[f"{peers._ALIVE}1"] = str(time.monotonic())
        time.sleep(0.05)


def test_a_process_that_beats_is_alive_and_one_that_stops_is_lost(store):
    with peers.watched():
        beat(store, 1.5)
        assert store.left == []
        time.sleep(1.3)
        assert store.left[0] == ("process 1 failed: lost, no sign of life for 0.6 s", 69)


def test_a_process_that_has_finished_is_not_missed(store):
    with peers.watched():
        beat(store, 0.2)
        store[f"{peers._LEFT}1"] = "true"
        time.sleep(1.3)
        assert store.left == []
    assert f"{peers._LEFT}0" in store  # and this one says so too


def test_another_failure_ends_this_one_if_it_does_not_end_itself(store):
    with peers.watched():
        store[f"{peers._FAILED}1"] = json.dumps(["bad.png: truncated", 1])
        time.sleep(0.15)
        assert store.left == []  # it is given time to come upon it by itself
        time.sleep(0.6)
        assert store.left[0] == ("process 1 failed: bad.png: truncated", 1)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("bad.png: truncated\nsecond line"), ["bad.png: truncated", 1]),
        (UsageError("no"), ["no", 2]),
        (KeyError("x"), ["KeyError: 'x'", 1]),
        (AssertionError(), ["AssertionError", 1]),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x"),
         ["JaxRuntimeError: RESOURCE_EXHAUSTED: x", 1]),
        (ValueError("UNKNOWN thing"), ["ValueError: UNKNOWN thing", 1]),
    ],
)  # fmt: skip
def test_an_error_is_told(store, error, told):
    with pytest.raises(type(error)), peers.watched():
        raise error
    assert json.loads(store[f"{peers._FAILED}0"]) == told
    assert store.left == []


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_a_broken_collective_is_put_down_to_the_process_that_is_lost(store, monkeypatch, kind):
    monkeypatch.setattr(peers, "INTERVAL", 0.15)  # four of them are the slack, on a busy machine
    store[f"{peers._ALIVE}1"] = "1.0"
    with pytest.raises(kind), peers.watched():  # `leave` would not return
        raise kind("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
    assert store.left[0] == ("process 1 failed: lost, no sign of life for 0.6 s", 69)


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),
        (jax.errors.JaxRuntimeError("Gloo: connection closed by peer"), True),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), False),
        (ValueError("OUT_OF_RANGE: Error writing: File too large [os_error_code='27']"), False),
        (ValueError("UNKNOWN thing"), False),
        (KeyError("UNKNOWN: thing"), False),
        (UserError("UNKNOWN: thing"), False),
    ],
)
def test_a_program_that_failed_is_known(error, broken):
    assert peers.is_broken(error) is broken


def test_a_lost_process_is_not_waited_for_to_say_goodbye(store, monkeypatch):
    with peers.watched() as tell:
        monkeypatch.setattr(peers, "GRACE", 30.0)
        store[f"{peers._FAILED}1"] = json.dumps(["lost", peers.LOST])
        began = time.monotonic()
        tell("this one ends too", 1)
        assert time.monotonic() - began < 5
        monkeypatch.setattr(peers, "GRACE", 0.3)
    assert json.loads(store[f"{peers._FAILED}0"]) == ["this one ends too", 1]


def test_one_process_watches_nobody(store, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda *_: 1)
    with peers.watched() as tell:
        assert tell is None
    assert store == {}


def test_nobody_to_join(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append(a))
    peers.join()
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a:1",), "go together"),
        (("", 2), "go together"),
        (("a:1", 2, 2), "go together"),
        (("a:1", 2, 1, True), "not both"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        peers.join(*arguments)
