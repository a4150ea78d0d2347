"""`imgclass export RUN --output=FILE.safetensors`: a run's weights for PyTorch's libraries."""

import argparse
import json
import pathlib

from imgclass.errors import UsageError
from imgclass.verbs import parsing


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "export", export, "write a run's weights for other libraries")
    parsing.run_arguments(verb)
    verb.add_argument("--output", required=True, metavar="FILE.safetensors", help="written anew")
    verb.add_argument(
        "--library",
        metavar="torchvision|timm|imgclass",
        help="whose names the tensors get (default: the first that has the model)",
    )


def export(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    import jax
    import numpy as np

    from imgclass import parallel
    from imgclass.evaluate import restore
    from imgclass.models import weight_files, weights

    path = pathlib.Path(args.output)
    if path.suffix != ".safetensors":
        raise UsageError(f"--output={args.output}: has to end in .safetensors")
    found = restore.restore(pathlib.Path(args.run), args.checkpoint)
    name = found.task.config.model.name
    library = args.library or weights.export_libraries(name)[0]
    variables = jax.tree.map(np.asarray, parallel.fetch(found.variables))
    tensors = weights.to_library(name, library, variables)
    about = {
        "model": name,
        "library": library,
        "step": found.step,
        "class_names": found.task.class_names,
        "preprocess": found.task.prepare.to_json(),
    }
    header = {key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()}
    weight_files.write(path, tensors, header)
    numbers = sum(array.size for array in tensors.values())
    if args.json:
        counts = {"tensors": len(tensors), "numbers": numbers}
        print(json.dumps({"run": args.run, "output": args.output} | about | counts))
    else:
        print(f"{args.output}: {name}, step {found.step}, {len(tensors)} tensors, "
              f"{numbers:,} numbers, by the names of {library}")  # fmt: skip
    return 0
