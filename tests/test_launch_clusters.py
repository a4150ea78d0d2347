"""launch/slurm.py, tpu_vm.py and kubernetes.py: what they would submit, checked and run with stubs.

No cluster is needed. The batch script is run by bash with an `srun` and a `scontrol` of ours; the
JobSet is held against the schema of its CRD (`jobset_v1alpha2.json` says which).
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from launch import kubernetes, slurm, tpu_vm
from tests import tiny

RUN = ["--config=configs/cnn.py", "--workdir=runs/a b"]


def printed(module, flags, capsys, rest=RUN):
    assert module.main([*flags, "--dry_run", "--", *rest]) == 0
    return capsys.readouterr().out


def stub(folder: pathlib.Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


SLURM = {
    "plain": [],
    "full": ["--nodes=4", "--gpus=8", "--cpus=16", "--sbatch=--partition=gpu", "--name=r50"],
    "sweep": ["--sweep=config.optim.lr=0.1,0.01", "--sweep=config.seed=0,1,2"],
}


@pytest.mark.parametrize("flags", SLURM.values(), ids=SLURM)
def test_slurm_renders_a_script_that_bash_and_shellcheck_accept(flags, tmp_path, capsys):
    script = printed(slurm, flags, capsys)
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=path)
    if shellcheck:
        checked = subprocess.run([shellcheck, "-"], input=script, text=True, capture_output=True)
        assert checked.stdout == ""


def directives(script):
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert script.startswith("#!/bin/bash\n" + "\n".join(lines))  # Slurm reads no later ones
    return dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines)


def test_slurm_asks_for_what_the_flags_say(capsys):
    found = directives(printed(slurm, SLURM["full"], capsys))
    assert found == {
        "job-name": "r50", "nodes": "4", "ntasks-per-node": "1", "time": "24:00:00",
        "signal": "TERM@120", "requeue": "", "open-mode": "append", "output": "r50-%j.log",
        "partition": "gpu", "gpus-per-node": "8", "cpus-per-task": "16",
    }  # fmt: skip
    found = directives(printed(slurm, SLURM["sweep"], capsys))
    assert found["array"] == "0-5"


SRUN = """
printf '%s\\n' "$@" > "$SEEN/srun"
echo "${JAX_LOCAL_DEVICE_IDS:-none}" > "$SEEN/devices"
exit "$STATUS"
"""


def run_script(script, folder, status, **variables):
    """Runs a batch script with stubs; returns its status, srun's words and whether requeued."""
    stub(folder / "bin", "srun", SRUN)
    stub(folder / "bin", "scontrol", 'printf "%s " "$@" > "$SEEN/scontrol"')
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    env = {"PATH": path, "SEEN": str(folder), "STATUS": str(status), "SLURM_JOB_ID": "17"}
    done = subprocess.run(
        ["bash"], input=script, env=env | variables, cwd=folder, capture_output=True, text=True
    )
    requeued = folder / "scontrol"
    words = (folder / "srun").read_text().splitlines() if (folder / "srun").exists() else []
    return done.returncode, words, requeued.read_text() if requeued.exists() else ""


@pytest.mark.parametrize(
    ("status", "again"), [(0, False), (1, False), (2, False), (69, True), (70, True), (75, True)]
)
def test_slurm_runs_main_and_requeues_what_can_go_on(status, again, tmp_path, capsys):
    script = printed(slurm, SLURM["full"], capsys)
    code, words, requeued = run_script(script, tmp_path, status)
    assert code == status
    assert words == ["--kill-on-bad-exit=1", "python", "main.py", "--distributed", *RUN]
    assert requeued == ("requeue 17 " if again else "")
    assert (tmp_path / "devices").read_text() == "0,1,2,3,4,5,6,7\n"


def test_slurm_requeues_no_more_often_than_said(tmp_path, capsys):
    script = printed(slurm, ["--restarts=2"], capsys)
    for count, again in (("1", "requeue 17 "), ("2", "")):
        (tmp_path / count).mkdir()
        assert run_script(script, tmp_path / count, 75, SLURM_RESTART_COUNT=count)[2] == again
    assert (tmp_path / "2" / "devices").read_text() == "none\n"  # no --gpus


def test_slurm_leaves_a_cancelled_job_to_who_cancelled_it(tmp_path, capsys):
    """The script is told, waits for the run to save, and does not put it back into the queue."""
    script = printed(slurm, [], capsys)
    stub(tmp_path / "bin", "srun", 'touch "$SEEN/there"; sleep 1.5; touch "$SEEN/saved"; exit 75')
    stub(tmp_path / "bin", "scontrol", 'touch "$SEEN/scontrol"')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    env = {"PATH": path, "SEEN": str(tmp_path), "SLURM_JOB_ID": "17"}
    (tmp_path / "script").write_text(script)
    with subprocess.Popen(["bash", "script"], env=env, cwd=tmp_path) as process:
        while not (tmp_path / "there").exists():
            assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=20) == 75
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "scontrol").exists()


def test_slurm_sweeps_have_a_folder_each(tmp_path, capsys):
    script = printed(slurm, SLURM["sweep"], capsys)
    seen = []
    for number in range(6):
        (tmp_path / str(number)).mkdir()
        variables = {"SLURM_ARRAY_TASK_ID": str(number)}
        seen.append(run_script(script, tmp_path / str(number), 0, **variables)[1][4:])
    values = [(lr, seed) for lr in ("0.1", "0.01") for seed in "012"]  # the last key fastest
    assert seen == [
        [RUN[0], f"{RUN[1]}/{n}", f"--config.optim.lr={lr}", f"--config.seed={seed}"]
        for n, (lr, seed) in enumerate(values)
    ]
    assert run_script(script, tmp_path, 0, SLURM_ARRAY_TASK_ID="6")[0] == 2


def test_slurm_submits_by_sbatch(tmp_path, monkeypatch):
    stub(tmp_path, "sbatch", f"cat > {tmp_path}/got; exit 3")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slurm.main(["--", *RUN]) == 3
    assert (tmp_path / "got").read_text().startswith("#!/bin/bash\n#SBATCH --job-name=imgclass\n")


def test_tpu_vm_runs_on_all_workers(tmp_path, monkeypatch):
    """What the workers' shell is given is run here, with a python that says what it was asked."""
    stub(tmp_path, "gcloud", f'printf "%s\\n" "$@" > {tmp_path}/got')
    stub(tmp_path, "python3", f'printf "%s\\n" "$@" >> {tmp_path}/ran; exit 75')
    stub(tmp_path, "sleep", "true")
    (tmp_path / "code").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    flags = ["pod", "--zone=us-central2-b", "--project=p", f"--folder={tmp_path / 'code'}"]
    for restarts, times in (("0", 1), ("2", 3)):
        (tmp_path / "ran").unlink(missing_ok=True)
        assert tpu_vm.main([*flags, f"--restarts={restarts}", "--", *RUN]) == 0
        *words, command = (tmp_path / "got").read_text().splitlines()
        assert words == [
            "compute", "tpus", "tpu-vm", "ssh", "pod", "--worker=all", "--zone=us-central2-b",
            "--project=p",
        ]  # fmt: skip
        done = subprocess.run(["sh", "-c", command.removeprefix("--command=")])
        assert done.returncode == 75
        said = (tmp_path / "ran").read_text().splitlines()
        assert said == ["main.py", "--distributed", *RUN] * times


def test_tpu_vm_prints_a_command_to_paste(capsys):
    (line,) = printed(tpu_vm, ["pod"], capsys).splitlines()
    assert shlex.split(line) == tpu_vm.render(tpu_vm.parser().parse_args(["pod"]), RUN)


JOBSET = [
    "--name=r50", "--image=registry/imgclass:1", "--pods=4", "--resource=nvidia.com/gpu=8",
    "--claim=shared=/runs", "--select=cloud.google.com/gke-accelerator=nvidia-h100",
]  # fmt: skip


def problems(value, schema, path=""):
    """Returns where a value is not of a schema, of the few words that the schema file uses."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return [f"{path}: not {schema['type']}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} is not one of {schema['enum']}")
    if isinstance(value, dict):
        found += [f"{path}: no {name}" for name in schema.get("required", []) if name not in value]
        known = schema.get("properties", {})
        for name, inner in value.items():
            if name not in known and schema.get("additionalProperties") is False:
                found.append(f"{path}: unknown {name}")
            found += problems(inner, known.get(name, {}), f"{path}/{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found += problems(inner, schema.get("items", {}), f"{path}/{number}")
    return found


def test_kubernetes_renders_a_jobset(capsys):
    schema = json.loads((tiny.ROOT / "tests/jobset_v1alpha2.json").read_text())
    jobset = yaml.safe_load(printed(kubernetes, JOBSET, capsys))
    assert problems(jobset, schema) == []
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    assert job["completions"] == job["parallelism"] == 4
    (container,) = job["template"]["spec"]["containers"]
    # Pods are called <jobset>-<group>-<job>-<index>, in a domain called as the JobSet.
    assert container["args"] == [
        *RUN, "--coordinator=r50-workers-0-0.r50:1234", "--num_processes=4",
        "--process_id=$(PROCESS_ID)",
    ]  # fmt: skip
    assert container["env"][0]["name"] == "PROCESS_ID"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/runs"}]

    # The control: the check does see mistakes.
    del jobset["spec"]["failurePolicy"]["rules"][0]["name"]
    job["completionMode"] = 1
    container["comand"] = container.pop("command")
    assert [line.rpartition("/")[2] for line in problems(jobset, schema)] == [
        "0: no name", "completionMode: not string", "0: unknown comand",
    ]  # fmt: skip


def test_kubernetes_with_one_pod_joins_nobody(capsys):
    flags = ["--name=a", "--image=i"]
    jobset = yaml.safe_load(printed(kubernetes, flags, capsys))
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["template"]["spec"]["containers"][0]["args"] == RUN


@pytest.mark.parametrize(
    ("module", "flags"), [(slurm, []), (tpu_vm, ["pod"]), (kubernetes, JOBSET)]
)
def test_a_run_that_may_be_started_again_needs_a_folder(module, flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        module.main([*flags, "--dry_run", "--", RUN[0]])
    assert "--workdir=FOLDER" in capsys.readouterr().err


def test_kubernetes_applies_by_kubectl(tmp_path, monkeypatch):
    stub(tmp_path, "kubectl", f'echo "$@" > {tmp_path}/words; cat > {tmp_path}/got')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert kubernetes.main([*JOBSET, "--", *RUN]) == 0
    assert (tmp_path / "words").read_text() == "apply -f -\n"
    assert yaml.safe_load((tmp_path / "got").read_text())["metadata"] == {"name": "r50"}


def readme_commands():
    text = (tiny.ROOT / "launch/README.md").read_text()
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL))
    return [shlex.split(line) for line in blocks.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("words", readme_commands(), ids=lambda words: words[1])
def test_the_commands_of_the_readme_can_be_given(words):
    done = subprocess.run(
        [sys.executable, words[1], "--dry_run", *words[2:]],
        cwd=tiny.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "main.py" in done.stdout
    (config,) = [word for word in words if word.startswith("--config=")]
    assert (tiny.ROOT / config.partition("=")[2]).is_file()


def test_the_readme_has_commands_for_every_launcher():
    scripts = {path.name for path in (tiny.ROOT / "launch").glob("*.py")}
    assert {pathlib.Path(words[1]).name for words in readme_commands()} == scripts
