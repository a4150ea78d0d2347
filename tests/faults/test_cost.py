"""The measurement of what safety costs works, at a toy size."""

import json

import pytest

from benchmarks import safety


@pytest.mark.slow
def test_the_cost_of_safety_is_measured(tmp_path, capsys):
    words = ["--megabytes=2", "--every=0.6", "--seconds=2", f"--output={tmp_path / 'cost.json'}"]
    safety.main(words)
    found = json.loads((tmp_path / "cost.json").read_text())["safety"]
    assert found["megabytes"] == pytest.approx(2, rel=0.01)
    assert found["blocked"]["count"] >= 2
    assert 0 < found["digest"] < found["whole_save"]
    assert found["copy"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 8
