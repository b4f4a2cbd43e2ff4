"""The folder of a training run: its settings, checkpoints, lock and trained model."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from kpzoo import files
from kpzoo.data.augment import Augment
from kpzoo.errors import UserError
from kpzoo.models import build
from kpzoo.pose_model import PoseModel, Preset
from kpzoo.training.averages import load_averages
from kpzoo.training.keras_callbacks import WEIGHTS, checkpoint_path, checkpoints, step_of
from kpzoo.training.summary import RECORD

# Values of settings that older records do not have. Their precision is unknown.
ADDED = {"ema": None, "base_batch": None, "warmup": 0, "sync_batch_norm": False}
ADDED |= {"instance_rule": "paper", "shares": None}


def resume(model: PoseModel, folder: str | Path, settings: Mapping) -> int:
    """Loads the newest readable checkpoint of a run into the compiled model.

    Args:
        model: The compiled model.
        folder: Run folder, created if it does not exist.
        settings: Settings that must not change when the run is resumed, such as batch size and seed, as JSON values.

    Returns:
        The step to continue from, 0 for a new run.

    Raises:
        UserError: If the folder contains a run with other settings or another model.
    """
    folder, record = Path(folder), Path(folder) / RECORD
    settings = json.loads(json.dumps({**settings, "preset": model.preset.to_config()}))
    if record.exists():
        _refuse_changes(_read_record(folder), settings, folder)
    else:
        files.write_json(record, settings, indent=1)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    for path in checkpoints(folder / "checkpoints"):
        try:
            step = step_of(path)
            model.load_weights(path)
        except (OSError, KeyError, ValueError) as error:
            print(f"Checkpoint {path} cannot be read ({error}). Resuming from the previous one.", file=sys.stderr)
            continue
        return step
    return 0


def follow(model: PoseModel, folder: str | Path, step: int) -> None:
    """Loads the checkpoint that the chief's `resume` has loaded."""
    path = checkpoint_path(Path(folder) / "checkpoints", step)
    if step and not path.exists():
        raise UserError(f"The chief resumes from {str(path)!r}, which this host cannot find. Share {str(folder)!r}.")
    if step:
        model.load_weights(path)


def _read_record(folder: Path) -> dict:
    """Returns the settings of a run."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        Preset.from_config(record["preset"])
    except OSError as error:
        raise UserError(f"{str(folder)!r} contains no training run: {RECORD!r}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{str(folder / RECORD)!r} is damaged ({type(error).__name__}: {error}). Restore a copy of it, or start a "
            "new run in another folder from the newest checkpoint."
        ) from None
    return record


def _refuse_changes(before: Mapping, now: Mapping, folder: Path) -> None:
    before, now = without_modules(before), without_modules(now)
    unknown = {key: ADDED.get(key, now[key]) for key in {*ADDED, "precision"} & now.keys()}
    before = {**unknown, **before}
    if isinstance(before.get("augment"), Mapping):
        before["augment"] = {**asdict(Augment()), **before["augment"]}
    for key, was, given in _differences(before, now):
        raise UserError(
            f"The run in {str(folder)!r} was started with {key}={str(was)[:200]}. Received: {str(given)[:200]}. "
            "Use the same settings to resume it, or another folder for a new run."
        )


def without_modules(value):
    """Returns the output of `serialize_keras_object` without the modules of registered classes.

    Keras finds registered classes by name. Their module may change between two parts of a run.
    """
    if isinstance(value, Mapping):
        dropped = {"module"} if value.get("registered_name") else set()
        return {key: without_modules(part) for key, part in value.items() if key not in dropped}
    return [without_modules(part) for part in value] if isinstance(value, list) else value


def _differences(before: Mapping, now: Mapping, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    """Yields (name, before, now) of all differences, including those in nested mappings."""
    for key in sorted({*before, *now}, key=lambda key: (key != "precision", key)):  # it changes the optimizer, too
        was, given = before.get(key), now.get(key)
        if isinstance(was, Mapping) and isinstance(given, Mapping):
            yield from _differences(was, given, f"{prefix}{key}.")
        elif was != given:
            yield f"{prefix}{key}", was, given


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Context manager that locks a run folder for this process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot write the run to {str(folder)!r}: {error.strerror}. Use another folder.") from None
    with file:
        if not files.hold(file, wait=False):
            raise UserError(f"Another process is training in {str(folder)!r}. Wait for it, or use another folder.")
        files.remove_parts(folder)
        yield


def load_run(folder: str | Path) -> PoseModel:
    """Returns the trained model of a run, or the model of its newest checkpoint if the run is not complete.

    Args:
        folder: Run folder, see `run`.

    Raises:
        UserError: If the folder contains no run, no checkpoint, or a damaged record.
    """
    folder = Path(folder).expanduser()
    record = _read_record(folder)
    preset = Preset.from_config(record["preset"])
    paths = [folder / WEIGHTS, *checkpoints(folder / "checkpoints")]
    weights = next((path for path in paths if path.exists()), None)
    if weights is None:
        raise UserError(f"The run in {str(folder)!r} has no checkpoint yet. Train it for an epoch first.")
    model = build(
        preset.name,
        image_hw=preset.image_hw,
        skeleton=preset.skeleton,
        normalization=preset.normalization,
        weights=weights,
        **preset.options,
    )
    if record.get("ema") is not None and weights.name != WEIGHTS:
        load_averages(model, weights)
    return model
