"""The figures of prediction, start-up and growth at toy size, without peers."""

import json

import numpy as np
import pytest

from benchmarks import growth, predict, startup


def test_prediction_of_the_default_net_is_timed(tmp_path, capsys):
    path = tmp_path / "predict.json"
    predict.main(["--models=cnn", "--batches=2", "--rounds=1", f"--json={path}"])
    found = json.loads(path.read_text())
    # 62 x 62 outputs of 3 x 3 x 3 values to 32 channels, then 31 x 31 x 32 values to 10 classes.
    assert found["multiply_adds"] == {"cnn": 62 * 62 * 27 * 32 + 31 * 31 * 32 * 10}
    (row,) = found["calls"]
    assert (row["program"], row["batch"]) == ("imgclass", 2)
    assert 0 < row["min"] <= row["median"] <= row["max"]
    assert "| cnn | 2 | imgclass |" in capsys.readouterr().out


def test_the_help_is_timed(capsys):
    startup.main(["--rounds=2", "--cases=0"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("| `imgclass --help` is printed |")


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_the_largest_points(power):
    work = [1, 10, 100, 1000]
    cost = [*np.asarray(work, float) ** power]
    assert growth.exponent(work, [3.0, *cost[1:]]) == pytest.approx(power)


@pytest.mark.slow
def test_growth_is_measured_and_drawn(tmp_path):
    plot, path = tmp_path / "growth.png", tmp_path / "growth.json"
    growth.main(["--kinds=batch,checkpoint", "--points=2", f"--plot={plot}", f"--json={path}"])
    kinds = json.loads(path.read_text())["kinds"]
    assert kinds["batch"]["work"] == [16, 64]
    assert all(value > 0 for value in kinds["checkpoint"]["cost"]["restoring"])
    assert plot.read_bytes().startswith(b"\x89PNG")
