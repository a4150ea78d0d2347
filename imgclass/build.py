"""What a config and its data become: preprocessing, model, optimizer and the compiled steps.

Training builds from an open data set, evaluation and prediction from what the run stored in
data.json; both end in the same `Task`. What feeds it is in `feeds`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.errors
import jax
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from imgclass import config as config_lib
from imgclass import keys, models, objective, optim, parallel, state, step
from imgclass import teacher as teacher_lib
from imgclass.data.dataset import Dataset
from imgclass.data.preprocess import Preprocess, to_unit
from imgclass.errors import UsageError


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
      total_steps: updates in the whole run.
      mesh: the devices.
      abstract: the TrainState's shapes, dtypes and shardings.
      class_counts: training examples by label; () where nothing is trained.
      teacher: who this run learns from, if anyone.
    """

    config: ml_collections.ConfigDict
    class_names: tuple[str, ...]
    prepare: Preprocess
    model: models.Model
    tx: optax.GradientTransformation
    schedule: optim.Schedule
    total_steps: int
    mesh: Mesh
    abstract: state.TrainState
    class_counts: tuple[int, ...] = ()
    teacher: teacher_lib.Teacher | None = None

    def initial_state(
        self,
        sample: Any = None,
        seed: int | None = None,
        pretrained: Mapping[str, np.ndarray] | None = None,
    ) -> state.TrainState:
        """Returns the state before the first update, placed on the mesh.

        Args:
          sample: u8[n, H, W, C], the pictures that the model is fitted to (`Model.fit`); None where
            it wants none.
          seed: in place of the config's. The compiled programs serve every seed.
          pretrained: f32 arrays that take the place of those drawn, by name: 'params.head.kernel'.
        """
        chosen = self.config.seed if seed is None else seed
        return self._initialize(_root_key(chosen), sample, pretrained)

    @functools.cached_property
    def _initialize(self) -> Callable[..., state.TrainState]:
        make = functools.partial(_first_state, self.config, self.model, self.tx, self.prepare)
        return jax.jit(make, out_shardings=self.shardings)

    @property
    def shardings(self) -> Any:
        """Returns a sharding for each leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)

    def train_step(self, teacher: teacher_lib.Teacher | None = None) -> step.TrainStep:
        """Returns the pure train step, learning from `teacher`."""
        config, examples, total = self.config, sum(self.class_counts), self.total_steps
        mix_steps = config_lib.steps_of(config, "augment.mix_until", examples, total)
        return step.make_train_step(
            config=config,
            loss=objective.make(
                config, self.model, self.prepare, self.class_counts, teacher, self.class_names
            ),
            update=optim.make_update(config.optim, self.tx, self.schedule, total),
            prepare=self.prepare,
            num_classes=len(self.class_names),
            examples=examples,
            mix_steps=mix_steps if mix_steps < total else None,
            size_steps=tuple(round(part * total) for part in config.augment.size_at),
        )

    def jitted_train_step(self) -> step.TrainStep:
        """Returns the step compiled for the mesh; it consumes the state it is given."""
        return self._jit(self.train_step, parallel.rows_sharding(self.mesh))

    def jitted_train_steps(self, most: int) -> Any:
        """Returns `step.make_train_steps` compiled for the mesh."""
        rows, whole = parallel.rows_sharding(self.mesh), parallel.whole(self.mesh)

        def take(examples: Any, indices: jax.Array) -> Any:
            batch = parallel.take_rows(examples, indices)
            return jax.lax.with_sharding_constraint(batch, rows)

        def steps(teacher: teacher_lib.Teacher | None) -> Callable:
            return step.make_train_steps(self.train_step(teacher), take, most)

        return self._jit(steps, whole, whole, whole)

    def _jit(self, make: Callable[..., Callable], *inputs: Any) -> Callable:
        """Compiles make(teacher), a function of the state and of arguments sharded as `inputs`."""
        whole = parallel.whole(self.mesh)
        out, teacher = (self.shardings, whole), self.teacher
        if teacher is None:
            places = (self.shardings, *inputs)
            return jax.jit(make(None), in_shardings=places, out_shardings=out, donate_argnums=0)

        # The teacher's weights are an argument: as constants they would be part of the program.
        def taught(variables: Any, *arguments: Any) -> Any:
            return make(dataclasses.replace(teacher, variables=variables))(*arguments)

        places = (whole, self.shardings, *inputs)
        compiled = jax.jit(taught, in_shardings=places, out_shardings=out, donate_argnums=1)
        return functools.partial(compiled, teacher.variables)

    def jitted_eval_step(self, tta: str = "none") -> step.EvalStep:
        """Returns the eval step compiled for the mesh; `tta` is a value of eval.tta."""
        rows, whole = parallel.rows_sharding(self.mesh), parallel.whole(self.mesh)
        pure = step.make_eval_step(
            model=self.model,
            prepare=self.prepare,
            num_classes=len(self.class_names),
            tta=tta,
        )
        # The variables keep whatever sharding they have: a state's, or a restored subset's.
        return jax.jit(pure, in_shardings=(None, rows), out_shardings=(whole, rows))


def _root_key(seed: int) -> np.ndarray:
    """Returns the data of a run's root key, on the host: the same on every process."""
    return np.asarray(jax.random.key_data(keys.root(seed)))


def _first_state(
    config: ml_collections.ConfigDict,
    model: models.Model,
    tx: optax.GradientTransformation,
    prepare: Preprocess,
    key: Any,
    sample: Any = None,
    pretrained: Mapping[str, Any] | None = None,
) -> state.TrainState:
    variables = model.init(keys.branch(jax.random.wrap_key_data(key), "init"))
    if sample is not None:
        variables = model.fit(variables, prepare.standardize(to_unit(sample)))
    if pretrained is not None:
        variables = _with(variables, pretrained)
    averaging, slow = optim.averages(config.optim), optim.keeps_slow(config.optim)
    return state.create(key, variables, tx, averaging, slow)


def _with(variables: Any, arrays: Mapping[str, Any]) -> Any:
    """Returns the variables, those that are named in `arrays` taken from there."""

    def chosen(path: Any, leaf: Any) -> Any:
        return arrays.get(jax.tree_util.keystr(path, simple=True, separator="."), leaf)

    return jax.tree_util.tree_map_with_path(chosen, variables)


def from_data(
    config: ml_collections.ConfigDict,
    data: Dataset,
    mesh: Mesh,
    total_steps: int,
    warmup_steps: int,
    teacher: teacher_lib.Teacher | None = None,
) -> Task:
    """Returns the task of training on an open data set; arguments and errors as those of `make`."""
    names = data.source.class_names
    counts = np.bincount(data.splits["train"].labels, minlength=len(names))
    return make(
        config,
        names,
        data.prepare,
        mesh,
        total_steps,
        warmup_steps,
        tuple(counts.tolist()),
        teacher,
    )


def make(
    config: ml_collections.ConfigDict,
    class_names: tuple[str, ...],
    prepare: Preprocess,
    mesh: Mesh,
    total_steps: int,
    warmup_steps: int,
    class_counts: tuple[int, ...] = (),
    teacher: teacher_lib.Teacher | None = None,
) -> Task:
    """Returns the task of a config. Raises UsageError where the parts do not fit together.

    Args:
      config: resolved and checked.
      class_names: by label.
      prepare: the preprocessing.
      mesh: the devices.
      total_steps: updates in the whole run.
      warmup_steps: those of them that warm up.
      class_counts: training examples by label. Without them nothing can be trained that asks for
        an example's epoch or a class's weight.
      teacher: whose weights loss.teacher means; evaluation needs none. Its weights may be anywhere.
    """
    shape = (*prepare.image_size, prepare.channels)
    model = models.create(config.model, len(class_names), shape)
    schedule = optim.schedule(config.optim, total_steps, warmup_steps)
    tx = optim.create(config.optim)
    first = functools.partial(_first_state, config, model, tx, prepare)
    # Of a key's shape alone: drawing it would compile and run programs.
    key = jax.eval_shape(lambda: jax.random.key_data(keys.root(config.seed)))
    shapes = jax.eval_shape(first, key)
    optim.check_patterns(config.optim, shapes.params)
    if config.optim.freeze:
        frozen = optim.frozen_modules(shapes.params, config.optim.freeze)
        model = dataclasses.replace(model, frozen=frozen)
    for size in step.training_sizes(config.augment, prepare):
        _check_size(model, shapes, size, prepare.channels)
    shardings = parallel.state_sharding(shapes, mesh, config.train.fsdp)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )
    if teacher is not None:
        teacher_lib.check(teacher, model, prepare, class_names, config.loss.distill_feature)
        variables = parallel.put_whole(mesh)(parallel.fetch(teacher.variables))
        teacher = dataclasses.replace(teacher, variables=variables)
    return Task(
        config=config,
        class_names=class_names,
        prepare=prepare,
        model=model,
        tx=tx,
        schedule=schedule,
        total_steps=total_steps,
        mesh=mesh,
        abstract=abstract,
        class_counts=class_counts,
        teacher=teacher,
    )


def _check_size(
    model: models.Model, shapes: state.TrainState, size: tuple[int, int], channels: int
) -> None:
    """Raises UsageError if weights for pictures of image_size cannot see those of `size`."""
    variables = {"params": shapes.params, "batch_stats": shapes.batch_stats}
    picture = jax.ShapeDtypeStruct((1, *size, channels), np.float32)
    try:
        jax.eval_shape(model.apply, variables, picture)
    except (flax.errors.FlaxError, TypeError, ValueError) as error:
        # Flax adds a page to read.
        cause = str(error).partition("\n")[0].partition(" (https:")[0]
        raise UsageError(
            f"augment.sizes: this model cannot take pictures of {size[0]}x{size[1]} besides those "
            f"of data.image_size={model.input_shape[:2]} ({cause}); drop augment.sizes, or use a "
            "net without a position embedding or a flattened map"
        ) from error
