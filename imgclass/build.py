"""What a config and its data become: preprocessing, model, optimizer and the compiled steps.

Training builds from an open data set, evaluation and prediction from what the run stored in
data.json; both end in the same `Task`. The feeds are made here too, where data meets devices.
"""

import dataclasses
from typing import Any

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from imgclass import models, optim, parallel, state, step
from imgclass.data import dataset, feed
from imgclass.data.preprocess import Preprocess


@dataclasses.dataclass(frozen=True)
class Task:
    """Everything a run computes with.

    Attributes:
      config: resolved and checked.
      class_names: by label.
      prepare: the preprocessing.
      model: init and apply.
      tx: the optimizer.
      schedule: step -> learning rate.
      abstract: the TrainState's shapes, dtypes and shardings.
    """

    config: ml_collections.ConfigDict
    class_names: tuple[str, ...]
    prepare: Preprocess
    model: models.Model
    tx: optax.GradientTransformation
    schedule: optim.Schedule
    mesh: Mesh
    abstract: state.TrainState

    def initial_state(self) -> state.TrainState:
        """Returns the state before the first update, placed on the mesh."""
        make = jax.jit(self._create, out_shardings=self.shardings)
        return make()

    def _create(self) -> state.TrainState:
        averaging = self.config.optim.ema_decay > 0
        return state.create(self.model, self.tx, self.config.seed, averaging)

    @property
    def shardings(self) -> Any:
        """Returns a sharding for each leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)

    def train_step(self) -> step.TrainStep:
        """Returns the pure train step."""
        return step.make_train_step(
            config=self.config,
            model=self.model,
            tx=self.tx,
            schedule=self.schedule,
            prepare=self.prepare,
            num_classes=len(self.class_names),
        )

    def jitted_train_step(self) -> step.TrainStep:
        """Returns the step compiled for the mesh; it consumes the state it is given."""
        rows, whole = parallel.rows_sharding(self.mesh), parallel.whole(self.mesh)
        return jax.jit(
            self.train_step(),
            in_shardings=(self.shardings, rows),
            out_shardings=(self.shardings, whole),
            donate_argnums=0,
        )

    def jitted_train_steps(self, most: int) -> Any:
        """Returns `step.make_train_steps` compiled for the mesh."""
        rows, whole = parallel.rows_sharding(self.mesh), parallel.whole(self.mesh)

        def take(examples: Any, indices: jax.Array) -> Any:
            batch = parallel.take_rows(examples, indices)
            return jax.lax.with_sharding_constraint(batch, rows)

        return jax.jit(
            step.make_train_steps(self.train_step(), take, most),
            in_shardings=(self.shardings, whole, whole, whole),
            out_shardings=(self.shardings, whole),
            donate_argnums=0,
        )

    def jitted_eval_step(self) -> step.EvalStep:
        """Returns the eval step compiled for the mesh."""
        rows, whole = parallel.rows_sharding(self.mesh), parallel.whole(self.mesh)
        pure = step.make_eval_step(
            model=self.model, prepare=self.prepare, num_classes=len(self.class_names)
        )
        # The variables keep whatever sharding they have: a state's, or a restored subset's.
        return jax.jit(pure, in_shardings=(None, rows), out_shardings=(whole, rows))


def make(
    config: ml_collections.ConfigDict,
    class_names: tuple[str, ...],
    prepare: Preprocess,
    mesh: Mesh,
    total_steps: int,
    warmup_steps: int,
) -> Task:
    """Returns the task of a config. Raises UsageError where the parts do not fit together."""
    shape = (*prepare.image_size, prepare.channels)
    model = models.create(config.model, len(class_names), shape)
    schedule = optim.schedule(config.optim, total_steps, warmup_steps)
    tx = optim.create(config.optim)
    averaging = config.optim.ema_decay > 0
    shapes = jax.eval_shape(lambda: state.create(model, tx, config.seed, averaging))
    shardings = parallel.state_sharding(shapes, mesh, config.train.fsdp)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )
    return Task(config, class_names, prepare, model, tx, schedule, mesh, abstract)


def train_feed(task: Task, data: dataset.Dataset) -> feed.StreamFeed | feed.ResidentFeed:
    """Returns the training feed that `data.feed` asks for."""
    config, split = task.config, data.splits["train"]
    size = dataset.train_size(config.data)
    megabytes = len(split) * size[0] * size[1] * task.prepare.channels / 2**20
    kind = config.data.feed
    if kind == "auto":
        kind = "resident" if megabytes <= config.data.resident_mb else "stream"
    if kind == "resident":
        rows = parallel.rows_sharding(task.mesh)
        return feed.ResidentFeed(
            split,
            task.prepare,
            size,
            seed=config.seed,
            batch_size=config.train.batch_size,
            put_all=parallel.put_whole(task.mesh),
            take=jax.jit(parallel.take_rows, out_shardings=rows),
            threads=config.data.threads,
        )
    return feed.StreamFeed(
        split,
        task.prepare,
        size,
        seed=config.seed,
        batch_size=config.train.batch_size,
        rows=parallel.local_rows(task.mesh, config.train.batch_size),
        put=parallel.put_rows(task.mesh),
        threads=config.data.threads,
        prefetch=config.data.prefetch,
    )


def eval_feed(task: Task, data: dataset.Dataset, role: str) -> feed.EvalFeed | None:
    """Returns the feed of an evaluation, None if there is no such split or it is empty."""
    split = data.splits.get(role)
    if split is None or not len(split):
        return None
    # Padding is masked, so rounding the batch up to the devices changes no figure.
    devices = task.mesh.devices.size
    batch_size = -(-task.config.eval.batch_size // devices) * devices
    config = task.config.data
    return feed.EvalFeed(
        split,
        task.prepare,
        batch_size=batch_size,
        rows=parallel.local_rows(task.mesh, batch_size),
        put=parallel.put_rows(task.mesh),
        threads=config.threads,
        prefetch=config.prefetch,
        resident_bytes=0 if config.feed == "stream" else config.resident_mb * 2**20,
    )
