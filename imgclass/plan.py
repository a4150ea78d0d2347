"""The run in steps: how long it is, and at which steps something is due. Pure arithmetic."""

import dataclasses

import ml_collections

from imgclass import config as config_lib


@dataclasses.dataclass(frozen=True)
class Plan:
    """The run in steps: its length, and when things are due.

    Attributes:
      examples: size of the training split.
      batch_size: examples a step.
      total: steps of the whole run.
      warmup: steps of learning-rate warm-up.
      evaluate: when validation is due.
      save: when a checkpoint is due.
      log: when a training record is due.
    """

    examples: int
    batch_size: int
    total: int
    warmup: int
    evaluate: config_lib.Interval
    save: config_lib.Interval
    log: config_lib.Interval

    def epoch(self, step: int) -> float:
        """Returns passes over the training split done after `step` updates."""
        return step * self.batch_size / self.examples

    def steps_until_due(self, step: int, most: int) -> int:
        """Returns how many steps may be done before anything is due, 1 to `most`."""
        marks = [i.next_after(step) for i in (self.evaluate, self.save, self.log)]
        return min([most, self.total - step] + [mark - step for mark in marks if mark])


def make_plan(config: ml_collections.ConfigDict, examples: int) -> Plan:
    """Returns the plan of a resolved config for a training split of `examples`."""
    total = config_lib.total_steps(config, examples)
    return Plan(
        examples=examples,
        batch_size=config.train.batch_size,
        total=total,
        warmup=config_lib.steps_of(config, "optim.warmup", examples, total),
        evaluate=config_lib.interval_of(config, "eval.every", examples, total),
        save=config_lib.interval_of(config, "checkpoint.every", examples, total),
        log=config_lib.interval_of(config, "log.every", examples, total),
    )
