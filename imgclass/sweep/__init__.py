"""Many runs from one file: an ablation (named changes x seeds) or a search for better values.

    declare    what a file says: `Ablation`, `Search`, and what a value may be
    runs       a declared run: its command, its folder, whether it is done or does not match
    pool       processes of main.py: N at a time, each claimed by one sweep, stopped cleanly
    ablation   runs what is missing, then the table over seeds
    study      Optuna's memory of a search, its sampler and its pruner
    search     trials: runs of main.py whose validations Optuna is told of, and may stop
    findings   the best config as a file to run, a table of trials, plots
    outputs    the texts and pictures themselves
    cluster    the missing runs as a Slurm job array

Nothing here trains: every run is `python main.py` with a folder of its own.
"""

from imgclass.sweep.declare import Ablation, Search, choice, integers, log_uniform, uniform

__all__ = ["Ablation", "Search", "choice", "integers", "log_uniform", "uniform"]
