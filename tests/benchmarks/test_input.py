"""The benchmark of input at toy size: every program gives a rate, and each figure its row."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import input as bench
from benchmarks import input_programs
from tests import tiny


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abc":
        Image.fromarray(tiny.pictures(1, 40)[0][0]).save(folder / f"{name}.jpg")
    return folder


PROGRAMS = ["photos", "photos, workers", "photos, device", "photos, raw", "raw", "jpeg"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_a_rate(photos, tmp_path, name):
    bench.copied(photos, tmp_path / "set", 6)
    changes, key, augments = input_programs.PROGRAMS[name]
    sizes = {"data.image_size": (8, 8), "data.load_size": (12, 12), "train.batch_size": 4}
    found = input_programs.measure(changes | sizes | {key: str(tmp_path / "set")}, augments, 0.01)
    assert found["images_per_second"] > 0
    assert found["peak_mib"] > 1
    assert (tmp_path / "home").exists() == ("raw" in name or "jpeg" in name)


def test_the_table_has_a_row_a_program_and_a_peer(photos, tmp_path, monkeypatch, capsys):
    commands = {}

    def run(programs, rounds):
        commands.update(programs)
        return {
            name: [{"images_per_second": 10.0 * (i + 1), "peak_mib": 50.0 + i}] * rounds
            for i, name in enumerate(programs)
        }

    monkeypatch.setattr(bench.rounds, "run", run)
    out = tmp_path / "out.json"
    words = f"input --photos={photos} --tf_python=TF --only=photos,resident --rounds=3 --json={out}"
    monkeypatch.setattr(sys, "argv", words.split())
    bench.main()
    shown = capsys.readouterr().out
    assert "resident: left out" in shown
    assert "tf.data, default" in shown
    assert "7.00 of the first" in shown
    assert list(commands) == [
        "photos", "photos, workers", "photos, aliased", "photos, device", "photos, raw", "tf.data",
        "tf.data, default",
    ]  # fmt: skip
    assert commands["tf.data, default"][0] == "TF"
    assert commands["tf.data, default"][-1] == "default"
    rows = json.loads(out.read_text())["figures"]["photos"]
    assert rows["tf.data"]["median"] == rows["tf.data"]["max"] == 60
    assert rows["tf.data"]["count"] == 3
    assert rows["tf.data"]["peak_mib"] == 55


def test_links_make_a_set_of_any_size(photos, tmp_path):
    bench.copied(photos, tmp_path / "set", 7)
    links = sorted(path.name for path in (tmp_path / "set").glob("*/*"))
    assert links == [f"{i}.jpg" for i in range(7)]
    assert np.asarray(Image.open(tmp_path / "set/a/6.jpg")).shape == (40, 40, 3)
