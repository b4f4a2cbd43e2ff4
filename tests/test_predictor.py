"""A predictor: what it takes, threads that share it, memory that goes with it, and the examples of its docstrings."""

import doctest
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_export import lively

import kpzoo
from kpzoo.errors import UserError
from kpzoo.images import write_image
from kpzoo.inference import acceleration, boxes, detectors, predictor
from kpzoo.weights import published

BOXES = np.array([[5.0, 5, 40, 50], [20, 10, 50, 45]])


@pytest.fixture(scope="module")
def model():
    return lively(kpzoo.build("cpn_tiny", image_hw=(64, 64)))


@pytest.fixture(scope="module")
def shared(model):
    return kpzoo.Predictor(model, detector="whole")


def noise(seed, size_hw=(60, 80)):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8)


def same(found, expected):
    np.testing.assert_array_equal(found.boxes_xywh, expected.boxes_xywh)
    np.testing.assert_allclose(found.keypoints_xy, expected.keypoints_xy, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)


class Unguarded:
    """A detector that breaks if two threads use it at once."""

    def __init__(self):
        self.busy = False

    def detect(self, images, image_ids):
        if self.busy:
            raise RuntimeError("called by two threads at once")
        self.busy = True
        boxes = [np.array([[2.0, 3, image[0, 0, 0] % 30 + 20, 40]]) for image in images]
        for _ in range(1000):  # lets other threads run
            pass
        self.busy = False
        return boxes, [np.ones(1)] * len(images)


@pytest.mark.parametrize("ready", [False, True], ids=["first calls", "later calls"])
def test_threads_that_share_a_predictor_get_the_poses_of_calls_one_after_another(model, ready):
    images = [noise(seed, (50 + 3 * seed, 80)) for seed in range(12)]
    one_by_one = kpzoo.Predictor(model, detector=Unguarded(), flip=False)
    expected = [one_by_one(image) for image in images]
    several = kpzoo.Predictor(model, detector=Unguarded(), flip=False)
    if ready:
        several(images[0])
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(several, images))
        streams = [threads.submit(lambda: list(several.stream(images))) for _ in range(2)]
        found += [one.poses for stream in streams for one in stream.result()]
    for poses, known in zip(found, 3 * expected, strict=True):
        same(poses, known)
    assert several._function._functions[False, None].experimental_get_tracing_count() == 1


def test_threads_that_share_a_frozen_predictor_get_the_same_poses(model, shared):
    frozen = kpzoo.Predictor(model, detector="whole").freeze()
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(frozen, [noise(0), noise(1)] * 3))
    assert frozen._function._frozen and not frozen._function._functions
    for seed, poses in enumerate(found):
        same(poses, shared(noise(seed % 2)))


def test_a_deleted_predictor_frees_its_weights_at_once_and_its_model_with_the_garbage_collector():
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    predictors = [kpzoo.Predictor(model, flip=False), kpzoo.Predictor(model, flip=False).freeze()]
    for each in predictors:
        each(noise(0), BOXES)
        list(each.stream([noise(0), noise(1)], BOXES))
    folded = [weakref.ref(each._function._folded) for each in predictors]
    network = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        del predictors, each
        assert [ref() for ref in folded] == [None, None]
    finally:
        gc.enable()
    assert network() is model
    del model
    gc.collect()
    assert network() is None


def test_no_function_keeps_a_model_alive(small_folder):
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    data = kpzoo.data.load(small_folder, "train")
    kpzoo.predict(model, noise(0), BOXES, flip=False)
    next(kpzoo.stream(model, [noise(0)] * 3, BOXES, flip=False))
    kpzoo.evaluate(model, data, flip=False)
    kpzoo.evaluation.progress_sheet(model, data, 2)
    network = weakref.ref(model)
    del model
    gc.collect()
    assert network() is None


def test_predict_and_a_predictor_give_the_same_poses(model, shared):
    same(shared(noise(3), BOXES), kpzoo.predict(model, noise(3), BOXES))


def test_a_name_or_a_tag_stands_for_a_model_with_its_published_weights(shipped_model):
    name = shipped_model.name
    expected = kpzoo.predict(shipped_model, noise(0), BOXES, flip=False)
    for given in (name, kpzoo.info(name).weights[-1]):
        same(kpzoo.predict(given, noise(0), BOXES, flip=False), expected)


def test_a_name_means_the_weights_that_the_commands_use(monkeypatch):
    monkeypatch.setattr(predictor.models, "build", lambda name, weights: weights)
    assert predictor.as_model("hrnet_w32") == published.default_tag("hrnet_w32", (256, 192))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("cpn_tiny", {}, r"'cpn_tiny' has no published weights. Pass `kpzoo.build\('cpn_tiny', weights=...\)`"),
        ("cpn_nan", {}, "Did you mean 'cpn_nano'"),
        (3, {}, "Received: int"),
        (None, {"accelerated": False, "precision": "bfloat16"}, "must be 'float32' with `accelerated=False`"),
        (None, {"detector": "hole"}, "Did you mean 'whole'"),
    ],
)
def test_what_is_no_model_or_does_not_fit_is_refused(model, given, options, message):
    with pytest.raises(UserError, match=message):
        kpzoo.Predictor(given or model, **options)


def test_the_default_detector_is_loaded_when_it_is_needed(model, monkeypatch):
    loaded = []
    monkeypatch.setattr(predictor.detectors, "get", lambda name: loaded.append(name) or Unguarded())
    plain = kpzoo.Predictor(model, accelerated=False)
    assert len(plain(noise(0), BOXES)) == 2 and not loaded
    for _ in range(2):
        assert len(plain(noise(0))) == 1
    assert loaded == [detectors.DEFAULT]


def test_only_an_accelerated_model_can_be_frozen(model):
    with pytest.raises(UserError, match="Received: `accelerated=False`"):
        kpzoo.Predictor(model, accelerated=False).freeze()


class Returns:
    def __init__(self, *returned):
        self.returned = returned

    def detect(self, images, image_ids):
        return self.returned


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (([], []), "`Returns.detect` must return two lists with one entry per image.*lists of 0 and 0"),
        (([np.ones((2, 5))], [np.ones(2)]), r"the boxes of `Returns.detect` must have shape \(P, 4\).*\(2, 5\)"),
        (([np.ones((2, 4))], [np.ones(3)]), r"one score per box. Received: 2 boxes, scores \(3,\)"),
        (([[[1, 2, np.nan, 4]]], [[1.0]]), "Box 0 of the boxes of `Returns.detect` must be finite"),
    ],
)
def test_what_an_own_detector_returns_is_checked(model, returned, message):
    with pytest.raises(UserError, match=message):
        kpzoo.predict(model, noise(0), detector=Returns(*returned))


def test_an_own_detector_may_find_no_person_and_return_lists(model):
    assert len(kpzoo.predict(model, noise(0), detector=Returns([[]], [[]]))) == 0
    assert len(kpzoo.predict(model, noise(0), detector=Returns([[[1, 2, 30, 40]]], [[0.5]]))) == 1


EXAMPLES = [predictor.Predictor, predictor.predict, predictor.stream, acceleration.accelerate]
EXAMPLES += [boxes.Detector, detectors.get]


@pytest.mark.parametrize("object", EXAMPLES)
def test_the_examples_of_the_docstrings_run(object, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "photo.jpg", noise(0, (200, 150)))
    write_image(tmp_path / "photos/photo.jpg", noise(0, (200, 150)))
    names = {"kpzoo": kpzoo, "np": np, "Detector": boxes.Detector, "get": detectors.get}
    if object is acceleration.accelerate:
        names |= {"model": kpzoo.build("cpn_tiny", image_hw=(64, 64)), "crops": np.zeros((2, 64, 64, 3), np.float32)}
    (test,) = doctest.DocTestFinder(recurse=False).find(object, object.__name__, globs=names)
    assert test.examples
    report = []
    doctest.DocTestRunner().run(test, out=report.append)
    assert not report, "".join(report)
