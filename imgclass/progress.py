"""What the host knows of a run so far, besides its state: saved with every checkpoint.

No arrays and no files: figures, the step, and which validation was the best.
"""

import dataclasses
from typing import Any

import numpy as np

from imgclass import metrics
from imgclass.evaluate import score
from imgclass.plan import Plan


@dataclasses.dataclass
class Progress:
    """What the host knows of the run so far; saved beside every checkpoint.

    `pending`: the validation due at this step was cut short, and is still to be done.
    """

    step: int = 0
    seconds: float = 0.0
    window: metrics.Window = dataclasses.field(default_factory=metrics.Window)
    validation: dict[str, float] | None = None
    best: dict[str, float] | None = None
    pending: bool = False

    def record(self) -> dict[str, Any]:
        """Returns plain data that `from_record` reads back exactly."""
        return vars(self) | {"window": self.window.to_json()}

    @staticmethod
    def from_record(stored: dict[str, Any]) -> "Progress":
        """Returns the progress a checkpoint was saved with."""
        return Progress(**stored | {"window": metrics.Window.from_json(stored["window"])})

    def note_validation(self, scores: dict[str, float], metric: str) -> bool:
        """Notes the figures of this step's validation; returns whether they are the best."""
        self.validation = {"step": self.step, **scores}
        old = self.best[metric] if self.best else None
        finite = bool(np.isfinite(scores["loss"]))  # an accuracy is, even of NaN logits
        improved = finite and score.is_better(metric, scores.get(metric, np.nan), old)
        if improved:
            self.best = self.validation
        return improved

    def result(self, plan: Plan, parameters: int, test: dict[str, float] | None) -> dict[str, Any]:
        """Returns what result.json holds of a finished run."""
        result: dict[str, Any] = {
            "parameters": parameters,
            "steps": self.step,
            "epochs": plan.epoch(self.step),
            "wall_seconds": self.seconds,
            "final": self.validation,
            "best": self.best,
        }
        return result | ({"test": test} if test else {})
