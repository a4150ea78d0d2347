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

from imgclass import keys
from imgclass.models import Model


@flax.struct.dataclass
class TrainState:
    """What training changes.

    Attributes:
      step: i32[], updates done.
      params: float32 tree.
      batch_stats: float32 tree, running means and variances; {} without batch norm.
      opt_state: the optimizer's own tree.
      ema: {'params', 'batch_stats'} averaged over steps; {} when not averaging.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any


def create(
    model: Model, tx: optax.GradientTransformation, seed: int, averaging: bool
) -> TrainState:
    """Returns the state before the first update; pure in `seed`."""
    variables = model.init(keys.stream(seed, "init"))
    ema = jax.tree.map(jnp.copy, dict(variables)) if averaging else {}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        ema=ema,
    )


def eval_variables(state: TrainState) -> dict[str, Any]:
    """Returns what to evaluate and predict with: the average if there is one."""
    if state.ema:
        return state.ema
    return {"params": state.params, "batch_stats": state.batch_stats}
