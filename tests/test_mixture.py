"""Several data sets in one training: other keypoints, shares, weights of keypoints, and exact streams."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_small_folder

import kpzoo
from kpzoo import training
from kpzoo.data import load, make_dataset, mixture, packing
from kpzoo.errors import UserError
from kpzoo.losses import default_loss
from kpzoo.scenes import drawn
from kpzoo.scenes.composed import compose_scene
from kpzoo.scenes.crowd import Crowd
from kpzoo.scenes.cutouts import Cutouts
from kpzoo.skeletons import COCO17, CROWDPOSE14, Skeleton

SIZE = dict(image_hw=(64, 64))
FACE = slice(0, 5)  # of COCO's keypoints
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


@pytest.fixture(scope="module")
def data(small_folder):
    return load(small_folder, "train")


@pytest.fixture(scope="module")
def crowdpose(tmp_path_factory):
    """The small folder with CrowdPose's 14 keypoints, of which COCO lacks head and neck."""
    root = tmp_path_factory.mktemp("crowdpose")
    write_small_folder(root)
    path = root / "annotations/person_keypoints_train.json"
    content = json.loads(path.read_text())
    places = CROWDPOSE14.places_in(COCO17)
    for row in content["annotations"]:
        triples = np.array(row["keypoints"]).reshape(17, 3)[places] * (places >= 0)[:, None]
        row |= dict(keypoints=triples.ravel().tolist(), num_keypoints=int((triples[:, 2] > 0).sum()))
    content["categories"] = [{"id": 1, "name": "person", "keypoints": list(CROWDPOSE14.keypoints)}]
    path.write_text(json.dumps(content))
    return load(root, "train")


def reordered(data, left="Left ", right="RIGHT-"):
    """The same data with its keypoints in another order, and with other spellings of the sides."""
    order = np.random.default_rng(3).permutation(data.skeleton.num_keypoints)
    config = data.skeleton.part(order).to_config()
    config = json.loads(json.dumps(config).replace("left_", left).replace("right_", right))
    persons = data.annotations.persons
    moved = {
        name: getattr(persons, name)[:, order] for name in ("keypoints_image_xy", "visibility", "keypoint_weights")
    }
    annotations = replace(data.annotations, skeleton=Skeleton.from_config(config), persons=replace(persons, **moved))
    return replace(data, annotations=annotations)


def weighted(data, weights):
    """The same data with `keypoint_weights`, (K,) or (P, K)."""
    persons = data.annotations.persons
    weights = np.broadcast_to(np.float32(weights), persons.visibility.shape)
    return replace(data, annotations=replace(data.annotations, persons=replace(persons, keypoint_weights=weights)))


def arrays(stream, count) -> list[dict[str, np.ndarray]]:
    return [{name: value.numpy() for name, value in batch.items()} for batch in stream.take(count)]


def assert_equal(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def sets_of(count, seed, counts) -> np.ndarray:
    """The indices of the data sets of the first crops."""
    return np.concatenate([mixture.sets_of(cycle, seed, counts) for cycle in range(3)])[:count]


def test_each_cycle_has_the_shares_and_any_start_continues_the_order(data):
    _, counts = mixture.parts_of([(data, 1), (data, 0.5), (data, 0.002)])
    assert counts.tolist() == [6658, 3329, 13]
    order = sets_of(25_000, 7, counts)
    for start in (0, mixture.CYCLE):
        assert np.bincount(order[start : start + mixture.CYCLE]).tolist() == counts.tolist()
    assert (order[: mixture.CYCLE] != order[mixture.CYCLE : 2 * mixture.CYCLE]).any()
    assert 0.5 < (order[:200] == 0).mean() < 0.85  # mixed within few batches
    assert (sets_of(100, 8, counts) != order[:100]).any()
    for start in (0, 1, 9_999, 10_000, 23_456):
        assert mixture.taken_before(start, 7, counts).tolist() == np.bincount(order[:start], minlength=3).tolist()


def test_every_set_is_read_in_its_own_order_without_gaps(data):
    _, counts = mixture.parts_of([(data, 3), (data, 1)])

    def elements(start, count):
        stream = mixture.stream(start, 5, counts, [lambda first: tf.data.Dataset.range(first, 2**40)] * 2)
        return [tuple(map(int, element)) for element in stream.take(count)]

    whole = elements(0, 60)
    assert [number for number, _, _ in whole] == list(range(60))
    for one in (0, 1):
        places = [place for _, chosen, place in whole if chosen == one]
        assert places == list(range(len(places))) and len(places) > 5
    assert elements(23, 37) == whole[23:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: [], "numbers above 0. Received: "),
        (lambda data: [(data, 0)], r"numbers above 0. Received: \[0\]"),
        (lambda data: [(data, 1), (data, float("nan"))], "numbers above 0"),
        (lambda data: [(data, 1), (data, 1e-5)], "at least 1/10000 of their sum"),
        (lambda data: [data, data], "list of pairs"),
        (lambda data: "folder", "`data=` must be a data set"),
    ],
)
def test_what_is_no_mixture_is_refused(data, make, message):
    with pytest.raises(UserError, match=message):
        mixture.parts_of(make(data))


@pytest.mark.parametrize("name", ["cpn_tiny", "mipnet_cpn_tiny"])
def test_labels_fill_what_they_can_and_weigh_nothing_elsewhere(name, data, crowdpose):
    """Rows of a mixture are those of each data set alone; keypoints that a set lacks weigh nothing in every loss."""
    how = dict(augment=None, seed=4, check_images=False)
    model, other = (kpzoo.build(name, **SIZE, skeleton=one.skeleton) for one in (data, crowdpose))
    mixed = arrays(make_dataset([(data, 1), (crowdpose, 1)], model, 8, **how), 3)
    mixed = {key: np.concatenate([batch[key] for batch in mixed]) for key in mixed[0]}
    _, counts = mixture.parts_of([(data, 1), (crowdpose, 1)])
    chosen = sets_of(24, 4, counts)
    own, theirs = COCO17.shared_with(CROWDPOSE14)
    for number, (one, network, places) in enumerate(((data, model, np.arange(17)), (crowdpose, other, theirs))):
        rows = np.flatnonzero(chosen == number)
        assert len(rows) > 4
        (alone,) = arrays(make_dataset(one, network, len(rows), **how), 1)
        for key, value in alone.items():
            if key in ("image", "instance", "present"):
                np.testing.assert_array_equal(mixed[key][rows], value, err_msg=key)
            else:
                columns = own if number else places
                np.testing.assert_array_equal(mixed[key][rows][..., columns], value[..., places], err_msg=key)
    rows = np.flatnonzero(chosen == 1)
    for key in ("weights", "global_weights"):
        assert not mixed[key][rows][..., FACE].any()
        assert mixed[key][rows].any()
    assert mixed["global_weights"][chosen == 0].all()  # v = 0 of COCO is an empty heatmap for GlobalNet
    loss = default_loss(model.preset)
    batch = {key: tf.constant(value[rows]) for key, value in mixed.items()}
    outputs = {key: tf.random.stateless_normal(batch[key].shape, (1, 2)) for key in ("heatmaps", "global_heatmaps")}
    outputs = {key: tf.Variable(value) for key, value in outputs.items()}
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(loss(batch, outputs))
    for key, gradient in tape.gradient(total, outputs).items():
        assert not gradient.numpy()[..., FACE].any(), key
        assert gradient.numpy().any(), key


@pytest.mark.parametrize("packed", [False, True])
def test_the_order_of_the_keypoints_in_the_data_changes_nothing(packed, data, tmp_path):
    """Half bodies, mirrored crops, neighbours and packs follow the names, not the numbers."""
    data = weighted(data, np.linspace(0.2, 1, 17))
    sets = [data, reordered(data)]
    if packed:
        sets = [load(packing.write_pack(one, tmp_path / str(n), **SIZE)) for n, one in enumerate(sets)]
    model = kpzoo.build("mipnet_cpn_tiny", **SIZE)
    how = dict(augment="hrnet", seed=2, visibility_rule="cpn")
    assert_equal(*(arrays(make_dataset(one, model, 8, **how), 3) for one in sets))


def test_the_order_of_the_keypoints_in_composed_crowds_changes_nothing(tmp_path):
    drawn.write_drawn(tmp_path, 10, image_hw=(160, 200), people=(1, 1))
    data = weighted(load(tmp_path, "train"), np.linspace(0.2, 1, 17))
    sets, model = [data, reordered(data, "left_", "right_")], kpzoo.build("mipnet_cpn_tiny", **SIZE)
    how = dict(augment="cpn", seed=2, visibility_rule="cpn")
    found, other = (arrays(make_dataset(one, model, 6, crowd=Crowd(one, 1.0), **how), 2) for one in sets)
    assert_equal(found, other)
    alone = arrays(make_dataset(sets[0], model, 6, crowd=Crowd(sets[1], 1.0), **how), 2)
    assert_equal(found, alone)
    weights = np.unique(np.concatenate([batch["weights"].ravel() for batch in found]).round(4))
    assert set(weights) == {0.0, *np.linspace(0.2, 1, 17, dtype=np.float32).round(4)}
    _, annotations = compose_scene(0, Cutouts(data))
    for row in annotations:
        seen = np.array(row["keypoints"]).reshape(17, 3)[:, 2] > 0
        scores = np.array(row["keypoint_scores"])
        assert not scores[~seen].any()
        options = [np.linspace(0.2, 1, 17), np.linspace(0.2, 1, 17)[COCO17.flip_order]]
        assert any(np.allclose(scores[seen], option[seen], atol=1e-4) for option in options)


def test_weights_of_keypoints_weigh_final_heatmaps_and_levels_and_are_mirrored(data):
    weights = np.linspace(0.2, 1, 17).astype(np.float32)
    model = kpzoo.build("cpn_tiny", **SIZE)
    how = dict(augment="cpn", seed=1)
    mirrored = []
    for plain, found in zip(
        *(arrays(make_dataset(one, model, 8, **how), 3) for one in (data, weighted(data, weights))), strict=True
    ):
        np.testing.assert_array_equal(plain["heatmaps"], found["heatmaps"])
        for row in range(8):
            assert plain["global_weights"][row].all()
            factors = found["global_weights"][row]
            order = COCO17.flip_order if factors[0, 1] != weights[1] else np.arange(17)
            mirrored.append(order is COCO17.flip_order)
            np.testing.assert_array_equal(factors, np.tile(weights[order], (4, 1)))
            np.testing.assert_array_equal(found["weights"][row], plain["weights"][row] * weights[order])
    assert 0 < np.mean(mirrored) < 1


def test_keypoint_scores_of_a_file_are_weights_and_a_keypoint_that_is_left_out_weighs_nothing(tmp_path):
    write_small_folder(tmp_path)
    path = tmp_path / "annotations/person_keypoints_train.json"
    content = json.loads(path.read_text())
    before = load(tmp_path, "train")
    scores = np.linspace(0, 1, 17)
    content["annotations"][0]["keypoint_scores"] = scores.tolist()
    path.write_text(json.dumps(content))
    data = load(tmp_path, "train")
    persons = data.annotations.persons
    np.testing.assert_array_equal(persons.keypoint_weights[0], np.float32(scores * (persons.visibility[0] > 0)))
    assert (persons.keypoint_weights[1:] == 1).all() and (persons.visibility[1:] == 0).any()
    assert data.crc32 != before.crc32
    left_out = weighted(data, persons.visibility > 0)
    batch = arrays(make_dataset(left_out, kpzoo.build("cpn_tiny", **SIZE), 13, seed=1), 1)[0]
    unlabelled = batch["weights"] == 0
    assert unlabelled.any() and not batch["global_weights"].swapaxes(1, 2)[unlabelled].any()
    for wrong in ([0.5] * 16, [50.0] * 17, [None] * 17, "high", [-1.0] + [0.5] * 16):
        content["annotations"][0]["keypoint_scores"] = wrong
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"`keypoint_scores` that are not 17 numbers in 0 … 1"):
            load(tmp_path, "train")


def test_a_stream_of_folders_and_packs_starts_anywhere_and_is_made_by_any_host(data, crowdpose, tmp_path):
    pack = load(packing.write_pack(crowdpose, tmp_path / "pack", **SIZE))
    sets = [(data, 2), (pack, 1), (crowdpose, 0.5)]
    model, how = kpzoo.build("mipnet_cpn_tiny", **SIZE), dict(augment="hrnet", seed=3)
    whole = arrays(make_dataset(sets, model, 6, **how), 5)
    assert_equal(whole[3:], arrays(make_dataset(sets, model, 6, **how, start_step=3), 2))
    hosts = [arrays(make_dataset(sets, model, 6, **how, host=(index, 2)), 5) for index in (0, 1)]
    joined = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*hosts, strict=True)]
    assert_equal(whole, joined)
    assert kpzoo.data.num_persons(sets) == 3 * kpzoo.data.num_persons(data)


def test_every_keypoint_of_a_model_is_in_some_data_and_rules_are_per_set(data, crowdpose):
    model = kpzoo.build("cpn_tiny", **SIZE)
    with pytest.raises(UserError, match="other keypoints than model 'cpn_tiny'.*data=\\[\\(data_set, share\\), ...\\]"):
        make_dataset(crowdpose, model, 4)
    with pytest.raises(UserError, match=r"None of the 2 data sets has the keypoints \['nose', 'left_eye'"):
        make_dataset([(crowdpose, 1), (crowdpose, 1)], model, 4)
    sets = [(data, 1), (data, 1)]
    for rule, message in ((["cpn"], "one rule for each of 2 data sets"), ([None, "cnp"], "Did you mean 'cpn'")):
        with pytest.raises(UserError, match=message):
            make_dataset(sets, model, 4, visibility_rule=rule)
    batch = arrays(make_dataset(sets, model, 32, visibility_rule=[None, "labelled"], check_images=False), 1)[0]
    _, counts = mixture.parts_of(sets)
    chosen = sets_of(32, 0, counts)
    counted = batch["global_weights"].all(axis=(1, 2))
    assert counted[chosen == 0].all() and not counted[chosen == 1].all()


def test_a_run_on_several_sets_resumes_exactly_and_refuses_others(data, crowdpose, tmp_path):
    def make_model():
        keras.utils.set_random_seed(0)
        model = kpzoo.build("cpn_tiny", **SIZE)
        model.compile(training.AdamL2(1e-3), default_loss(model.preset))
        return model

    sets, how = [(data, 2), (crowdpose, 1)], dict(batch_size=4, steps_per_epoch=2, augment="cpn")
    whole = training.run(make_model, sets, tmp_path / "whole", epochs=2, **how)
    training.run(make_model, sets, tmp_path / "parts", epochs=1, **how)
    resumed = training.run(make_model, sets, tmp_path / "parts", epochs=2, **how)
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    record = json.loads((tmp_path / "parts/run.json").read_text())
    assert record["shares"] == [2.0, 1.0] and record["annotations_crc32"] == [data.crc32, crowdpose.crc32]
    for changed, message in (
        ([(data, 1), (crowdpose, 1)], r"shares=\[2.0, 1.0\]. Received: \[1.0, 1.0\]"),
        ([(data, 2), (weighted(crowdpose, 0.5), 1)], "annotations_crc32"),
        (data, "annotations_crc32"),
    ):
        with pytest.raises(UserError, match=message):
            training.run(make_model, changed, tmp_path / "parts", epochs=3, **how)
