"""Two real processes train as one, and one goes on with what two began."""

import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from tests import tiny

CHANGES = {
    "model.batch_norm": True, "augment.flip": True, "optim.ema_decay": 0.9, "train.devices": 0,
    "train.total_steps": 12, "eval.every_steps": 5, "eval.batch_size": 5, "log.every_steps": 3,
    "checkpoint.every_steps": 4, "eval.final_test": True, "model.dropout": 0.2,
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def start(command: list[str], log) -> subprocess.Popen:
    return subprocess.Popen(
        command, env=tiny.environment(), cwd=tiny.ROOT, stdout=log, stderr=subprocess.STDOUT
    )


def start_two(data, workdir, changes, logs, *flags):
    joined = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", *flags]
    return [
        start(tiny.command(data, workdir, changes, *joined, f"--process_id={i}"), log)
        for i, log in enumerate(logs)
    ]


def wait(processes, logs, code=0):
    try:
        codes = [process.wait(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for log in logs:
        log.seek(0)
    texts = [log.read() for log in logs]
    assert codes == [code] * len(codes), "\n-----\n".join(texts)
    return texts


def assert_same_figures(a, b):
    assert [(r["step"], r["split"]) for r in a] == [(r["step"], r["split"]) for r in b]
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        np.testing.assert_allclose(left["loss"], right["loss"], rtol=1e-5)
        assert left.get("examples") == right.get("examples")


def test_two_processes_train_as_one_and_one_goes_on(tmp_path):
    data = tiny.archive(tmp_path)  # 50, 13 and 11 pictures: no batch of 8 or 6 divides them
    logs = [open(tmp_path / f"log{i}", "w+") for i in range(4)]  # noqa: SIM115
    try:
        alone = start(tiny.command(data, tmp_path / "one", CHANGES), logs[2])
        two = tmp_path / "two"
        wait([alone], [logs[2]])
        texts = wait(start_two(data, two, CHANGES, logs[:2]), logs[:2])
        assert_same_figures(tiny.records(tmp_path / "one"), tiny.records(two))
        assert [r["examples"] for r in tiny.records(two) if "examples" in r] == [13, 13, 13, 11]
        # Only the lead says and writes anything.
        assert "step 12/12" in texts[0]
        assert "step 12/12" not in texts[1]
        assert sorted(path.name for path in two.iterdir()) == [
            "checkpoints", "config.json", "data.json", "environment.json", "lock", "log.txt",
            "metrics.jsonl", "result.json",
        ]  # fmt: skip
        assert tiny.saved_steps(two) == tiny.saved_steps(tmp_path / "one")
        for name, value in tiny.arrays(tmp_path / "one").items():
            np.testing.assert_allclose(
                tiny.arrays(two)[name], value, rtol=1e-3, atol=1e-5, err_msg=name
            )

        # One process goes on where two stopped.
        longer = CHANGES | {"train.total_steps": 15}
        alone = start(tiny.command(data, two, longer, "--allow_config_change"), logs[3])
        wait([alone], [logs[3]])
        assert [r["step"] for r in tiny.records(two) if r["split"] == "train"] == [3, 6, 9, 12, 15]
        assert tiny.saved_steps(two)[-1] == 15
    finally:
        for log in logs:
            log.close()


@pytest.mark.slow
def test_a_signal_to_one_of_two_stops_both_and_both_go_on(tmp_path):
    """Split parameters as well, so that each process saves and restores its own half."""
    data = tiny.archive(tmp_path)
    changes = CHANGES | {
        "train.total_steps": 300, "checkpoint.every_steps": 20, "log.every_steps": 10,
        "eval.every_steps": 100, "train.fsdp": True, "model.filters": (64,), "model.hidden": (64,),
    }  # fmt: skip
    logs = [open(tmp_path / f"log{i}", "w+") for i in range(6)]  # noqa: SIM115
    try:
        wait(start_two(data, tmp_path / "a", changes, logs[:2]), logs[:2])
        processes = start_two(data, tmp_path / "b", changes, logs[2:4])
        while not tiny.saved_steps(tmp_path / "b"):
            assert processes[0].poll() is None
            time.sleep(0.01)
        processes[1].send_signal(signal.SIGTERM)  # not the lead
        wait(processes, logs[2:4], code=75)
        assert tiny.saved_steps(tmp_path / "b")[-1] < 300
        wait(start_two(data, tmp_path / "b", changes, logs[4:]), logs[4:])
        tiny.assert_same_bits(tiny.arrays(tmp_path / "a"), tiny.arrays(tmp_path / "b"))
        assert tiny.records(tmp_path / "a") == tiny.records(tmp_path / "b")
    finally:
        for log in logs:
            log.close()
