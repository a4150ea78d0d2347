"""The report of a run: one HTML page and the same as JSON.

`write` measures a run's outcomes, gathers what its folder says, and writes both files. It neither
trains nor scores: outcomes come from `evaluate.outcomes`, figures from `evaluate.measures`.
"""

from imgclass.report.writing import FEW, default_split, needed, write

__all__ = ["FEW", "default_split", "needed", "write"]
