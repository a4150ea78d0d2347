"""What would be submitted to Slurm; bash runs the script with an `srun` of ours."""

import os
import pathlib
import shlex
import stat
import subprocess

import pytest

from imgclass.errors import UserError
from imgclass.sweep import Ablation, cluster, runs
from tests.sweep.declared import CNN

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it


@pytest.fixture
def each(tmp_path):
    """Four runs, the first of which is done."""
    declared = Ablation(CNN, {"a": {}, "b": {"model.filters": (4, 8)}}, seeds=2)
    found = runs.of_ablation(declared, tmp_path / "my sweep")
    found[0].folder.mkdir(parents=True)
    (found[0].folder / "result.json").write_text("{}")
    return found


def test_an_array_of_what_is_missing(each, tmp_path, capfd):
    root = tmp_path / "my sweep"
    assert cluster.submit(each, root, "--gpus=1 --time=2:00:00 --dry_run") == []
    script = capfd.readouterr().out
    assert "#SBATCH --array=0-2\n" in script
    assert "#SBATCH --time=2:00:00\n" in script
    assert "#SBATCH --gpus-per-node=1\n" in script
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    for number, one in enumerate(each[1:]):
        env = os.environ | {
            "PATH": f"{srun.parent}:{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": str(number),
        }
        done = subprocess.run(["bash"], input=script, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert tuple(done.stdout.splitlines()[4:]) == one.words


def test_it_is_submitted_by_sbatch(each, tmp_path, monkeypatch):
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f"#!/bin/bash\ncat > {shlex.quote(str(tmp_path))}/got\n")
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    assert cluster.submit(each, tmp_path / "my sweep", "") == ["b-0", "a-1", "b-1"]
    assert "--array=0-2" in pathlib.Path(tmp_path / "got").read_text()


def test_a_refusal_is_passed_on(each, tmp_path):
    with pytest.raises(UserError, match="status 2; nothing was submitted"):
        cluster.submit(each, tmp_path / "my sweep", "--no-such-flag")
