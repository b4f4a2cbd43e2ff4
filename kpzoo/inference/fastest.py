"""Selects the fastest engine that is installed and agrees with the Keras model."""

import sys
import time
from collections.abc import Callable
from threading import Lock

import numpy as np

from kpzoo.errors import UserError
from kpzoo.inference import agreement, engines
from kpzoo.pose_model import PoseModel

AUTO = "auto"
NUM_CROPS = 8
ROUNDS = 3
# Agreement in reduced precision: mean distance to the float32 keypoints, relative to that of TensorFlow in the same
# precision, and in crop pixels.
FACTOR, SLACK = 1.5, 0.25

_CHOSEN, _LOCK = {}, Lock()


def choose(model: PoseModel, precision: str, prepare: Callable[[str], Callable]) -> Callable:
    """Returns the function of the fastest engine, and prints the measurement on stderr.

    The result of the measurement is kept for models with the same preset.

    Args:
        model: Any model of the zoo.
        precision: Precision of all engines.
        prepare: Returns the function of an engine, given its name.
    """
    able = [name for name in engines.ENGINES if precision in engines.PRECISIONS[name] and engines.is_installed(name)]
    if not able:
        raise UserError(
            f"No engine that is installed computes in {precision}.", "`pip install 'kpzoo[openvino,int8]'`."
        )
    preset = model.preset
    key = (preset.name, preset.image_hw, preset.num_instances, repr(sorted(preset.options.items())), precision)
    with _LOCK:
        if key in _CHOSEN:
            return prepare(_CHOSEN[key])
        functions = _prepared(able, prepare)
        known = agreement.reference(model, NUM_CROPS, flip=True)
        image = known.inputs["image"]
        apart = {name: known.distances(function(image)[0]) for name, function in functions.items()}
        agreeing = {name: functions[name] for name in functions if _agrees(apart, name, precision)}
        times = measured(agreeing, image)
        _CHOSEN[key] = min(times, key=times.get)
        speeds = ", ".join(f"{name} {NUM_CROPS / taken:.1f}" for name, taken in times.items())
        others = "".join(f"; {name}'s keypoints differ" for name in functions if name not in agreeing)
        moved = "" if precision == "float32" else f", keypoints move by {apart[_CHOSEN[key]].mean():.2f} px on average"
        size = "x".join(map(str, preset.image_hw))
        print(
            f"kpzoo: engine {_CHOSEN[key]} for {preset.name} {size} {precision}: {speeds} crops/s{others}{moved}",
            file=sys.stderr,
        )
        return functions[_CHOSEN[key]]


def _prepared(names: list[str], prepare: Callable[[str], Callable]) -> dict[str, Callable]:
    """Returns the functions of engines, without those that cannot run the model; TensorFlow can run every model."""
    functions = {}
    for name in names:
        try:
            functions[name] = prepare(name)
        except UserError:
            if len(names) == 1 or name == engines.TENSORFLOW:
                raise
    return functions


def _agrees(apart: dict[str, np.ndarray], name: str, precision: str) -> bool:
    if name == engines.TENSORFLOW or engines.TENSORFLOW not in apart:
        return True
    if precision == "float32":
        return bool(apart[name].max() <= agreement.KEYPOINT_LIMIT)  # NaN is not
    return bool(apart[name].mean() <= FACTOR * apart[engines.TENSORFLOW].mean() + SLACK)


def measured(functions: dict[str, Callable], image: np.ndarray) -> dict[str, float]:
    """Returns the seconds of one call of each function with the flip test, the best of interleaved rounds."""
    times = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            started = time.perf_counter()
            function(image)[0].numpy()
            times[name].append(time.perf_counter() - started)
    return {name: min(taken) for name, taken in times.items()}
