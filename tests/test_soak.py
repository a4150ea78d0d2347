"""The short form of the soak: ten deaths."""

import json
import subprocess
import sys

import pytest

from tests import soak, tiny


@pytest.mark.slow
@pytest.mark.parametrize("wait", [(), ("--wait",)], ids=["as it is", "waiting"])
def test_ten_deaths_lose_and_tear_nothing(wait):
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--kills=10", "--seed=1", "--minutes=10", *wait],
        cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["deaths"] == 10
    assert found["bit_identical"]
    assert found["faults"] == []


def save(run, step, name="manifest.json"):
    (run / f"checkpoints/{step:010d}").mkdir(parents=True, exist_ok=True)
    (run / f"checkpoints/{step:010d}" / name).write_text("{}")


def test_it_sees_what_is_lost_and_torn(tmp_path):
    """The control: deaths that a person would call faults."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 45, "split": "train"}\n{"st')
    save(tmp_path, 20)  # a manifest without a digest: torn
    tally = soak.Tally()
    soak.note(tally, tmp_path, -9, asked=False)
    assert tally.lost == [25]  # more than the 20 between saves
    assert tally.faults[0] == "death 1: SIGKILL lost 25 steps"
    assert "is not a manifest" in tally.faults[1]

    save(tmp_path, 40, "arrays")  # the save of step 40 was being written: 25 is within two
    (tmp_path / "result.json").write_text("{")
    tally = soak.Tally()
    soak.note(tally, tmp_path, -9, asked=False)
    assert tally.in_flight == 1
    assert [fault.split(":")[1] for fault in tally.faults][-1] == " result.json is torn"
    assert not any("SIGKILL lost" in fault for fault in tally.faults)

    tally = soak.Tally()
    soak.note(tally, tmp_path, 75, asked=True)
    soak.note(tally, tmp_path, 1, asked=True)
    assert tally.terms == {"75": 1, "1": 1}
    lines = "\n".join(tally.faults)
    assert "death 1: SIGTERM lost 25 steps" in lines
    assert "death 2: SIGTERM ended in status 1" in lines

    tally = soak.Tally()
    soak.note(tally, tmp_path, 75, asked=True, before=45)  # stopped before its first step
    assert not [fault for fault in tally.faults if "SIGTERM" in fault]
