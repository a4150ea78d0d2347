"""TrainState: all that training changes, as one pytree.

Plain data: no apply function, no optimizer object, no methods with effects. A run continues bit
for bit from (state, step), because the order of examples and every random key follow from the
step.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """What training changes.

    Attributes:
      step: i32[], updates done.
      key: u32[2], the data of the run's root key. Here and not in the program, so that runs which
        differ in their seed alone share one compiled program.
      params: float32 tree.
      batch_stats: float32 tree, running means and variances; {} without batch norm.
      opt_state: the optimizer's own tree.
      ema: {'params', 'batch_stats'} averaged over steps; {} when not averaging.
      slow: {'params', 'batch_stats'} of lookahead or schedule-free; {} without them.
    """

    step: jax.Array
    key: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    slow: Any


def create(
    key: jax.Array,
    variables: dict[str, Any],
    tx: optax.GradientTransformation,
    averaging: bool,
    slow: bool,
) -> TrainState:
    """Returns the state before the first update.

    Args:
      key: u32[2], see `TrainState`.
      variables: {'params', 'batch_stats'}, as `Model.init` draws them.
      tx: the optimizer.
      averaging: whether an average of the weights is kept.
      slow: whether slow weights are kept.
    """

    def copies() -> dict[str, Any]:
        return jax.tree.map(jnp.copy, dict(variables))

    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        ema=copies() if averaging else {},
        slow=copies() if slow else {},
    )


def eval_variables(state: TrainState) -> dict[str, Any]:
    """Returns what to evaluate and predict with: the average if there is one."""
    if state.ema:
        return state.ema
    return {"params": state.params, "batch_stats": state.batch_stats}
