"""Files are written whole or not at all."""

import contextlib
import json
import os
import resource
import signal

import pytest

from imgclass import files


@contextlib.contextmanager
def file_size_limit(size):
    """No file may grow past `size` bytes: a full disk, as far as a writer can tell."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_atomic_writes_leave_the_old_or_the_new(tmp_path):
    path = tmp_path / "a.json"
    files.write_atomically(path, "old")
    another = tmp_path / f"a.json.{os.getpid() + 1}.part"  # what another process is writing
    another.touch()
    with file_size_limit(10), pytest.raises(OSError, match=r".") as raised:
        files.write_atomically(path, "n" * 1000)
    assert raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [path, another]
    files.write_atomically(path, json.dumps("new"))
    assert json.loads(path.read_text()) == "new"
