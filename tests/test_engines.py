"""Every engine answers what the Keras model answers, with the flip test, whatever becomes of the weights."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
from test_accelerate import CHANGES, NAMES
from test_export import lively

import kpzoo
from kpzoo import heatmaps
from kpzoo.errors import UserError
from kpzoo.inference import acceleration, agreement, engines, fastest
from kpzoo.inference.acceleration import accelerate
from kpzoo.inference.folded_model import flip_test_heatmaps, instance_heatmaps
from kpzoo.scenes import drawn

OTHERS = ["openvino", "onnxruntime"]
bfloat16 = pytest.mark.skipif(not acceleration.has_bfloat16(), reason="this CPU does not compute in bfloat16")


@pytest.fixture(scope="module")
def models():
    return {name: lively(kpzoo.build(name, image_hw=(64, 64))) for name in (*NAMES, "cpn_lite_tiny")}


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("name", ["cpn_tiny", "cpn_lite_tiny", "mipnet_tiny", "hourglass_tiny"])
def test_keypoints_are_those_of_the_model_with_the_flip_test(models, crops, name, engine):
    model = models[name]
    known = agreement.reference(model, image=crops, flip=True)
    found, scores = accelerate(model, engine=engine)(crops)
    assert known.distances(found).max() <= agreement.KEYPOINT_LIMIT
    _, known_scores = heatmaps.decode(model.preset.rules, known.heatmaps)
    np.testing.assert_allclose(scores, known_scores, atol=2e-5 * np.abs(known.heatmaps).max())


@pytest.mark.parametrize("name", ["hrnet_tiny", "simplebaseline_tiny"])
def test_heatmaps_are_those_of_the_model(models, crops, name):
    ask, known = accelerate(models[name], engine="openvino"), agreement.reference(models[name], image=crops)
    off = np.abs(ask.heatmaps(crops).numpy() - known.heatmaps).max()
    assert off <= agreement.HEATMAP_LIMIT * np.abs(known.heatmaps).max()
    assert known.distances(ask(crops, flip=False)[0]).max() <= agreement.KEYPOINT_LIMIT


@pytest.mark.parametrize("engine", OTHERS)
def test_batches_may_have_any_size(models, crops, engine):
    ask = accelerate(models["mipnet_tiny"], engine=engine)
    whole = ask(crops)
    for size in (1, 2, 3, 1):  # of which OpenVINO has two networks, and one for all others
        for one, all_of_them in zip(ask(crops[:size]), whole, strict=True):
            np.testing.assert_allclose(one, all_of_them[:size], atol=1e-4)


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("change", ["a step of training"])
def test_no_answer_is_of_old_weights(crops, change, engine):
    model = lively(kpzoo.build("cpn_tiny", image_hw=(64, 64)))
    ask = accelerate(model, engine=engine)
    before = ask.heatmaps(crops).numpy()
    np.testing.assert_array_equal(ask.heatmaps(crops), before)
    CHANGES[change](model)
    expected = instance_heatmaps(model, tf.constant(crops)).numpy()
    assert np.abs(expected - before).max() > 1e-4 * np.ptp(before), "the change changed nothing"
    np.testing.assert_allclose(ask.heatmaps(crops), expected, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize("engine", OTHERS)
def test_threads_that_share_a_predictor_get_what_each_gets_alone(models, engine):
    predictor = kpzoo.Predictor(models["cpn_tiny"], engine=engine, batch_size=2)
    pictures = np.random.default_rng(1).integers(0, 256, (6, 80, 90, 3)).astype(np.uint8)
    boxes = [[[5, 5, 60, 70]] * (1 + place % 3) for place in range(len(pictures))]
    alone = [predictor(picture, given).keypoints_xy for picture, given in zip(pictures, boxes, strict=True)]
    found = {}

    def work(place):
        for _ in range(5):
            found.setdefault(place, []).append(predictor(pictures[place], boxes[place]).keypoints_xy)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(pictures))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for place, expected in enumerate(alone):
        assert len(found[place]) == 5
        for points in found[place]:
            np.testing.assert_allclose(points, expected, atol=1e-3)


def test_calls_that_are_under_way_keep_their_own_results(models, crops):
    ask = accelerate(models["cpn_tiny"], engine="openvino")
    expected = [ask(crops[place : place + 1])[0].numpy() for place in range(3)]
    started = [ask.start(crops[place : place + 1]) for place in range(3)]
    for wait, points in reversed(list(zip(started, expected, strict=True))):
        np.testing.assert_array_equal(wait()[0], points)


@bfloat16
@pytest.mark.parametrize("name", ["cpn_tiny", "mipnet_tiny"])
def test_bfloat16_is_near_and_told_in_pixels(models, crops, name, capsys):
    model = models[name]
    expected = instance_heatmaps(model, tf.constant(crops)).numpy()
    ask = accelerate(model, "bfloat16", "openvino")
    told = capsys.readouterr().err
    assert "bfloat16 in openvino: keypoints move by" in told and told.count("\n") == 1
    found = ask.heatmaps(crops).numpy()
    assert 1e-5 < np.sqrt(np.mean((found - expected) ** 2)) / expected.std() < 0.05
    assert len(np.unique(found)) > 0.9 * found.size  # the heads are in float32


def test_int8_is_quantized_with_the_crops_and_told_in_pixels(models, crops, capsys):
    model = models["cpn_tiny"]
    given = agreement.drawn_crops(model, 12)
    ask = accelerate(model, "int8", "openvino", calibration=given)
    assert "int8 in openvino: keypoints move by" in capsys.readouterr().err
    expected = flip_test_heatmaps(model, tf.constant(given)).numpy()
    found = accelerate(model, "int8", "openvino", calibration=given).heatmaps(given).numpy()
    plain = instance_heatmaps(model, tf.constant(given)).numpy()
    apart = np.sqrt(np.mean((found - plain) ** 2)) / plain.std()
    assert 1e-4 < apart < 0.6, "not in eight bits" if apart <= 1e-4 else "far from the model"
    assert len(np.unique(found)) > 0.5 * found.size  # the heads are in float32
    assert ask(given)[0].shape == (12, expected.shape[1], 17, 2)


def test_auto_takes_the_fastest_that_agrees_and_measures_once(models, crops, capsys, monkeypatch):
    monkeypatch.setattr(fastest, "_CHOSEN", {})
    seconds = {"tensorflow": 0.3, "openvino": 0.2, "onnxruntime": 0.1}
    monkeypatch.setattr(fastest, "measured", lambda functions, image: {name: seconds[name] for name in functions})
    ask = accelerate(models["cpn_tiny"], engine="auto")
    assert ask.engine == "onnxruntime"
    told = capsys.readouterr().err
    assert "engine onnxruntime for cpn_tiny 64x64 float32: tensorflow 26.7, openvino 40.0, onnxruntime 80.0" in told
    assert accelerate(models["cpn_tiny"], engine="auto").engine == "onnxruntime"
    assert capsys.readouterr().err == ""
    # An engine with other keypoints is not taken, however fast it is.
    fastest._CHOSEN.clear()
    whole = engines.EngineFunction.__call__
    wrong = lambda self, image, flip=True: [part + (self.engine == "onnxruntime") for part in whole(self, image, flip)]  # noqa: E731
    monkeypatch.setattr(engines.EngineFunction, "__call__", wrong)
    assert accelerate(models["cpn_tiny"], engine="auto").engine == "openvino"
    assert "onnxruntime's keypoints differ" in capsys.readouterr().err


def test_auto_measures_and_prints_the_speeds(models, monkeypatch, capsys):
    monkeypatch.setattr(fastest, "_CHOSEN", {})
    monkeypatch.setattr(engines, "is_installed", lambda engine: engine != "onnxruntime")
    ask = accelerate(models["simplebaseline_tiny"], engine="auto")
    told = capsys.readouterr().err
    assert "crops/s" in told and "onnxruntime" not in told
    assert getattr(ask, "engine", "tensorflow") in ("tensorflow", "openvino")


def test_what_no_engine_has_is_refused_in_one_line(models, crops, monkeypatch):
    model = models["cpn_tiny"]
    with pytest.raises(UserError, match="Did you mean 'openvino'"):
        accelerate(model, engine="openvin")
    with pytest.raises(UserError, match="'onnxruntime' does not compute in bfloat16.*Use `engine='tensorflow'`"):
        monkeypatch.setattr(acceleration, "has_bfloat16", lambda: True)
        accelerate(model, "bfloat16", "onnxruntime")
    with pytest.raises(UserError, match="`calibration=` belongs to `precision='int8'`.*without calibration"):
        accelerate(model, "int8", "openvino")
    with pytest.raises(UserError, match=r"crops \(n, 64, 64, 3\) with n of at least 8. Received: shape \(3, 64"):
        accelerate(model, "int8", "openvino", calibration=crops)
    with pytest.raises(UserError, match="`engine=` must be 'tensorflow' with `accelerated=False`"):
        kpzoo.Predictor(model, engine="openvino", accelerated=False)


@pytest.mark.parametrize(
    ("package", "extra", "options"),
    [
        ("openvino", "openvino", dict(engine="openvino")),
        ("tf2onnx", "onnx", dict(engine="onnxruntime")),
        ("nncf", "int8", dict(engine="openvino", precision="int8")),
    ],
)
def test_a_missing_package_is_named_with_its_extra(models, crops, monkeypatch, package, extra, options):
    monkeypatch.setitem(sys.modules, package, None)
    calibration = np.concatenate([crops] * 3) if "precision" in options else None
    with pytest.raises(UserError, match=rf"requires the package {package}.*`pip install 'kpzoo\[{extra}\]'`"):
        accelerate(models["cpn_tiny"], calibration=calibration, **options)


MEMORY = """
import ctypes, sys
import numpy as np
import kpzoo

def megabytes():
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024

model = kpzoo.build("simplebaseline_tiny", image_hw=(64, 64), widths=(8, 8, 12, 512))
ask = kpzoo.accelerate(model, engine=sys.argv[1])
crops = np.zeros((1, 64, 64, 3), np.float32)
used = []
for _ in range(24):
    model.variables[0].assign(1.01 * model.variables[0].value)
    ask.freeze()
    ask(crops, flip=False)
    used.append(megabytes())
print(max(used[-5:]) - max(used[3:8]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the memory in use from Linux")
@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_freezing_again_keeps_no_memory(engine):
    # The weights have 10 MB, of which 16 copies would be 160 MB.
    done = subprocess.run([sys.executable, "-c", MEMORY, engine], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 15


def test_a_detector_of_the_zoo_runs_in_the_engine_of_the_predictor(models):
    plain = kpzoo.detectors.get(kpzoo.detectors.DEFAULT)
    predictor = kpzoo.Predictor(models["cpn_tiny"], engine="openvino")
    assert (predictor.detector.engine, plain.engine) == ("openvino", "tensorflow")
    pictures = [drawn.draw_scene(seed, crowding=0.5)[0] for seed in range(2)]
    for found, known in zip(predictor.detector.detect(pictures, [0, 1]), plain.detect(pictures, [0, 1]), strict=True):
        for one, other in zip(found, known, strict=True):
            assert len(other)
            np.testing.assert_allclose(one, other, atol=0.01)
