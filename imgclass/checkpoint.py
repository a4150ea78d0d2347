"""Checkpoints: a step counts only when its arrays and a manifest of their digests are on disk.

Layout, under `<run>/checkpoints/`:

    0000000405/arrays/         written by Orbax
    0000000405/manifest.json   written last: a digest of every file in arrays/, and the record

Saving copies the arrays off the device and returns; a thread does the rest. `restore`
checks the digests first, because Orbax alone restores flipped bits without a word, and falls back
to the newest good step. Process 0 makes folders, writes manifests and chooses the step for all.
Nothing here knows models or configs.
"""

import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import threading
from typing import Any, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from imgclass import files, parallel, peers
from imgclass.errors import UserError

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
# Bytes that have to be free beside those of the arrays: for Orbax's own metadata, and so that the
# run can still say in its other files that the disk is full.
SPARE = 1 << 20
# Orbax gives a save ten minutes by the wall clock: a clock that is set forward would end the run.
_TEN_YEARS = 10 * 365 * 86_400


def _not_orbax_failing(record: logging.LogRecord) -> bool:
    # It logs a failed save three times with all its stacks, and raises it as well: `_join` says it.
    return record.levelno < logging.ERROR or "/orbax/" not in record.pathname


absl_logging.get_absl_logger().addFilter(_not_orbax_failing)
_report = sys.unraisablehook


def _not_a_closed_loop(said: Any) -> None:
    # What TensorStore still has to say of a failed save, to a loop that Orbax has closed by then.
    alone = said.object is None and isinstance(said.exc_value, RuntimeError)
    if not (alone and str(said.exc_value) == "Event loop is closed"):
        _report(said)


sys.unraisablehook = _not_a_closed_loop


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        """Args: folder, made when first saved to; keep, the newest steps kept besides the best."""
        self._folder, self._keep = pathlib.Path(folder).absolute(), keep
        self._saver: ocp.StandardCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except UserError:
            if kind is None:  # an error already on its way is the one to report
                raise

    def steps(self) -> list[int]:
        """Returns the finished steps, ascending; their digests are not checked here."""
        if not self._folder.is_dir():
            return []
        names = [p.name for p in self._folder.iterdir() if (p / MANIFEST).is_file()]
        steps = [int(name) for name in names if name.isdecimal()]
        return sorted(step for step in steps if self._path(step).name in names)

    def save(self, step: int, state: Any, record: dict[str, Any], best: int | None) -> None:
        """Starts saving; waits only for the previous save and the copy off the device.

        Args:
          step: updates done.
          state: tree of arrays.
          record: plain data stored beside them; comes back from `restore`.
          best: the step to keep whatever its age.

        Raises:
          UserError: if this save could not start or the previous one failed.
        """
        target = self._path(step)
        try:
            with parallel.together():
                self._join()
                if jax.process_index() == 0:
                    shutil.rmtree(target, ignore_errors=True)  # what a killed save left
                    target.mkdir(parents=True)
                    _check_room(target, state)
            arrays = _named(state)
            alone = jax.process_count() == 1
            if alone:
                arrays = _copied(arrays)
            else:  # Orbax meets the other processes in this, which only the main thread may do
                self._begin(target, arrays)
        except (OSError, ValueError, RuntimeError) as error:
            _raise_save_failed(target, error)

        def finish() -> None:
            try:
                if alone:
                    self._begin(target, arrays)
                assert self._saver is not None
                self._saver.wait_until_finished()
                if jax.process_index() == 0:
                    _write_manifest(target, step, record)
                    self._prune(step, best)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=finish, name="checkpoint")
        self._thread.start()

    def _begin(self, target: pathlib.Path, arrays: dict[str, Any]) -> None:
        if self._saver is None:
            self._saver = ocp.StandardCheckpointer(
                async_options=ocp.AsyncOptions(timeout_secs=_TEN_YEARS)
            )
        self._saver.save(target / "arrays", arrays)

    def amend(self, step: int, record: dict[str, Any]) -> None:
        """Replaces the record of a finished step; its arrays stay. Raises UserError if damaged."""
        with parallel.together():
            self._join()
            if jax.process_index() == 0:
                found = verify(self._path(step))
                if isinstance(found, str):
                    raise UserError(f"checkpoint of step {step} is damaged: {found}")
                _seal(self._path(step), {"step": step, "record": record, "files": found["files"]})

    def wait(self) -> None:
        """Waits for the save under way. Raises UserError if it failed, on whichever process."""
        with parallel.together():
            self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            _raise_save_failed(self._folder, error)

    def close(self) -> None:
        """Waits for the save under way and frees Orbax's threads; other processes may be gone."""
        try:
            self._join()
        finally:
            if self._saver is not None:
                self._saver.close()
                self._saver = None

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any]] | None:
        """Returns (state, record) of `step`, or of the newest good step; None if there is none.

        Args:
          like: tree of jax.ShapeDtypeStruct with shardings, which may differ from those saved.
          step: a finished step; it alone is tried.

        Raises:
          UserError: if steps were finished but none is intact, or arrays do not fit `like`.
        """
        found = parallel.on_lead(lambda: self._intact(step))
        if found is None:
            return None
        chosen, record = found
        return _read(self._path(chosen) / "arrays", like), record

    def _intact(self, step: int | None) -> tuple[int, dict[str, Any]] | None:
        """Returns the step to restore and its record; see `restore`."""
        steps = self.steps() if step is None else [step]
        for candidate in reversed(steps):
            found = verify(self._path(candidate))
            if isinstance(found, str):
                logger.warning("checkpoint of step %d is damaged: %s", candidate, found)
                continue
            if candidate != steps[-1]:
                logger.warning("going back to the newest intact checkpoint, step %d", candidate)
            return candidate, found["record"]
        if step is not None:
            raise UserError(f"{self._path(step)}: this checkpoint is damaged; ask for another")
        if steps:
            raise UserError(
                f"{self._folder}: every checkpoint is damaged (steps {', '.join(map(str, steps))})"
                ". Not starting over by itself: restore the files, or use a new --workdir"
            )
        unfinished = sorted(path.name for path in self._folder.glob("[0-9]" * 10))
        if unfinished:
            logger.warning(
                "%s: no checkpoint was finished (%s); starting from step 0",
                self._folder,
                ", ".join(unfinished),
            )
        return None

    def record(self, step: int) -> dict[str, Any]:
        """Returns the record a finished step was saved with. Raises UserError if damaged."""
        found = verify(self._path(step))
        if isinstance(found, str):
            raise UserError(f"checkpoint of step {step} is damaged: {found}")
        return found["record"]

    def _path(self, step: int) -> pathlib.Path:
        return self._folder / f"{step:010d}"

    def _prune(self, newest: int, best: int | None) -> None:
        # Later steps than the newest are damaged ones that were gone back from: were they
        # counted, they would push out the good ones.
        kept = {*[step for step in self.steps() if step <= newest][-self._keep :], best}
        for path in self._folder.glob("[0-9]" * 10):
            if path.is_dir() and int(path.name) not in kept:
                # Without its manifest a step no longer counts, so dying half-way loses nothing;
                # what such a death, or that of a save, has left is removed here too.
                (path / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)


def verify(path: pathlib.Path) -> dict[str, Any] | str:
    """Checks one step against its manifest.

    Returns:
      The manifest if every file is as it was written, or else a sentence that says what is not.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        claimed = manifest.pop("digest")
    except OSError as error:
        return f"{path / MANIFEST} cannot be read ({error.strerror})"
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return f"{path / MANIFEST} is not a manifest"
    if claimed != files.digest(manifest):
        return f"{path / MANIFEST} was altered"
    try:
        present = _file_digests(path / "arrays")
    except OSError as error:
        return f"{path}: {error}"
    for name in sorted(manifest["files"].keys() | present.keys()):
        if name not in present:
            return f"{path / 'arrays' / name} is missing"
        if manifest["files"].get(name) != present[name]:
            return f"{path / 'arrays' / name} was altered"
    return manifest


def _write_manifest(target: pathlib.Path, step: int, record: dict[str, Any]) -> None:
    _seal(target, {"step": step, "record": record, "files": _file_digests(target / "arrays")})


def _seal(target: pathlib.Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest | {"digest": files.digest(manifest)}, indent=1)
    files.write_atomically(target / MANIFEST, text)


def _file_digests(folder: pathlib.Path) -> dict[str, str]:
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
        digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _check_room(target: pathlib.Path, state: Any) -> None:
    """Raises OSError if the disk has too little room, which Orbax would find out half-way."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + SPARE
    disk = shutil.disk_usage(target)
    if disk.free < needed and disk.total:  # some network disks say 0 of 0
        shutil.rmtree(target, ignore_errors=True)
        words = f"{os.strerror(errno.ENOSPC)}: {needed:,} bytes needed, {disk.free:,} free"
        raise OSError(errno.ENOSPC, words)


def _raise_save_failed(path: pathlib.Path, error: BaseException) -> NoReturn:
    if peers.is_broken(error):  # in a collective, which the disk did not break
        raise error
    said = error.strerror if isinstance(error, OSError) else None
    reason = ((said or str(error)).strip().splitlines() or [type(error).__name__])[0]
    cause = re.search(r": ([^:]+) \[os_error_code=", reason)  # TensorStore's, after three paths
    raise UserError(
        f"{path}: the checkpoint could not be written ({cause[1] if cause else reason}). Earlier "
        "checkpoints are kept; make room or mend the disk, then run the same command to go on"
    ) from error


def _named(tree: Any) -> dict[str, Any]:
    """Returns {'params.conv.kernel': array}: names that outlive changes of container types."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _copied(arrays: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Returns the arrays in the host's memory, where the next step cannot overwrite them."""
    for array in arrays.values():
        array.copy_to_host_async()
    return {name: np.array(array) for name, array in arrays.items()}


def _read(folder: pathlib.Path, like: Any) -> Any:
    wanted = _named(like)
    with ocp.StandardCheckpointer() as reader:
        with parallel.together():
            stored = dict(reader.metadata(folder).item_metadata)
            wrong = [f"{name}: not in the checkpoint" for name in wanted.keys() - stored.keys()]
            wrong += [f"{name}: not in this model" for name in stored.keys() - wanted.keys()]
            wrong += [
                f"{name}: {_form(stored[name])} in the checkpoint, {_form(wanted[name])} here"
                for name in wanted.keys() & stored.keys()
                if _form(stored[name]) != _form(wanted[name])
            ]
            if wrong:
                raise UserError("\n".join([f"{folder} holds other arrays:", *sorted(wrong)]))
        arrays = reader.restore(folder, wanted)
    leaves, treedef = jax.tree_util.tree_flatten(like)
    assert len(leaves) == len(arrays)
    return jax.tree_util.tree_unflatten(treedef, [arrays[name] for name in wanted])


def _form(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
