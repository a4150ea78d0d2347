"""Starts main.py on Kubernetes as a JobSet: one pod a process, all of them training one model.

    python launch/kubernetes.py --name=r50 --image=REGISTRY/imgclass --pods=4 \\
        --resource=nvidia.com/gpu=8 --claim=shared=/runs -- \\
        --config=configs/imagenet_resnet50.py --workdir=/runs/r50

What follows `--` goes to main.py. When a pod ends with a failure, or its node goes, the JobSet
starts all pods again and the run goes on from its last checkpoint; wrong usage (status 2) ends it.
Needs the JobSet controller (jobset.x-k8s.io) in the cluster, and kubectl here.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import yaml

PORT = 1234
USAGE = 2  # main.py's status for what no second try mends
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def render(args: argparse.Namespace, rest: Sequence[str]) -> dict[str, Any]:
    """Returns the JobSet of parsed flags and main.py's arguments."""
    joined = [
        # The first pod's name in the JobSet's own DNS domain.
        f"--coordinator={args.name}-workers-0-0.{args.name}:{PORT}",
        f"--num_processes={args.pods}",
        "--process_id=$(PROCESS_ID)",
    ]
    resources = dict(_pair(word) for word in args.resource)
    claims = dict(_pair(word) for word in args.claim)
    container: dict[str, Any] = {
        "name": "main",
        "image": args.image,
        "command": [args.python, "main.py"],
        "args": [*rest, *(joined if args.pods > 1 else [])],
        "env": [{"name": "PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}}],
        "ports": [{"containerPort": PORT}],
    }
    if resources:
        container["resources"] = {"limits": resources, "requests": dict(resources)}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": args.grace,
        "containers": [container],
    }
    if args.select:
        pod["nodeSelector"] = dict(_pair(word) for word in args.select)
    if claims:
        container["volumeMounts"] = [{"name": n, "mountPath": p} for n, p in claims.items()]
        pod["volumes"] = [{"name": n, "persistentVolumeClaim": {"claimName": n}} for n in claims]
    job = {
        "completionMode": "Indexed",
        "completions": args.pods,
        "parallelism": args.pods,
        "backoffLimit": 0,  # one pod alone cannot join again: the JobSet starts all
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "main", "operator": "In", "values": [USAGE]},
                }
            ]
        },
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": args.name},
        "spec": {
            "failurePolicy": {
                "maxRestarts": args.restarts,
                "rules": [
                    {
                        "name": "wrong-usage",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": job}}],
        },
    }


def _pair(word: str) -> tuple[str, str]:
    name, given, value = word.rpartition("=")
    if not given or not name:
        raise SystemExit(f"{word!r} is not NAME=VALUE")
    return name, value


def parser() -> argparse.ArgumentParser:
    """Returns the launcher's flags."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    made.add_argument("--name", required=True, help="of the JobSet")
    made.add_argument("--image", required=True, help="with main.py in its working directory")
    made.add_argument("--pods", type=int, default=1, help="processes, one a pod")
    made.add_argument("--python", default="python")
    made.add_argument("--restarts", type=int, default=20, help="of all pods, at most")
    made.add_argument("--grace", type=int, default=120, help="seconds to save in when stopped")
    made.add_argument(
        "--resource", action="append", default=[], metavar="NAME=COUNT",
        help="of each pod: nvidia.com/gpu=8, google.com/tpu=4, cpu=16, memory=64Gi",
    )  # fmt: skip
    made.add_argument(
        "--select", action="append", default=[], metavar="LABEL=VALUE",
        help="the nodes, for example cloud.google.com/gke-tpu-topology=4x4",
    )  # fmt: skip
    made.add_argument(
        "--claim", action="append", default=[], metavar="NAME=FOLDER",
        help="a PersistentVolumeClaim and where pods see it; run folders have to be shared",
    )  # fmt: skip
    made.add_argument("--dry_run", action="store_true", help="print the YAML, apply nothing")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Applies, or prints, the JobSet."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    flags, rest = parser(), words[split + 1 :]
    args = flags.parse_args(words[:split])
    if not re.fullmatch("[a-z]([a-z0-9-]*[a-z0-9])?", args.name):
        flags.error("--name: lower-case letters, digits and hyphens, a letter first")
    if not any(word.lstrip("-").startswith("workdir=") for word in rest):
        flags.error("give main.py a --workdir=FOLDER, after --: it is where a restart goes on")
    text = yaml.safe_dump(render(args, rest), sort_keys=False)
    if args.dry_run:
        sys.stdout.write(text)
        return 0
    return subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True).returncode


if __name__ == "__main__":
    sys.exit(main())
