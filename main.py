"""Trains what a config file describes.

    python main.py --config=configs/cnn.py
    python main.py --config=configs/cnn.py:cifar10 --config.train.total_epochs=3 --workdir=runs/c3

Kept short on purpose: what can be tested lives in the package.
"""

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from imgclass import arguments, peers, process, run, train
from imgclass.errors import UsageError

config_flags.DEFINE_config_file(
    "config", None, "Experiment file, FILE[:ARGUMENT].", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Run folder; '' makes runs/<config>-<n>. An old one goes on."
)
ALLOW = flags.DEFINE_bool(
    "allow_config_change", False, "Go on with a config that differs in keys that may."
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of every error.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, to train in several processes."
)
PROCESSES = flags.DEFINE_integer(
    "num_processes", 0, "How many processes train together.", lower_bound=0
)
PROCESS = flags.DEFINE_integer("process_id", 0, "Which of them this is, from 0.", lower_bound=0)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Find the other processes as Slurm, MPI, GKE or a TPU says."
)
HEARTBEAT = flags.DEFINE_float(
    "heartbeat_seconds", 60.0, "Without a sign of life a process is lost, and all end.", 5.0
)
JOIN = flags.DEFINE_float("join_seconds", 300.0, "To wait for all processes to come.", 5.0)


def main(config: ml_collections.ConfigDict, name: str) -> None:
    """Joins the other processes if there are any, and trains."""
    process.tune()
    cluster = COORDINATOR.value, PROCESSES.value, PROCESS.value, DISTRIBUTED.value
    peers.join(*cluster, heartbeat=HEARTBEAT.value, patience=JOIN.value)
    if jax.process_count() > 1 and not WORKDIR.value:
        raise UsageError("--workdir is needed when several processes train together")
    with run.folder_for(WORKDIR.value, name) as workdir:
        train.train_and_evaluate(config, workdir, allow_change=ALLOW.value)


if __name__ == "__main__":
    arguments.run(main)
