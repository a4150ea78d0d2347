"""imgclass: train, evaluate and use CNN image classifiers with JAX and Flax."""

__version__ = "0.1.0"
