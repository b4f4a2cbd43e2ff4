"""What holds for any input: geometry, heatmaps, suppression and JSON as properties, files with damage at any place."""

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_images import encoded

import kpzoo
from kpzoo import geometry, heatmaps, images, nms
from kpzoo.data import files, json_file
from kpzoo.data.coco import read_annotations
from kpzoo.errors import UserError
from kpzoo.skeletons import COCO17
from kpzoo.weights import published

SIZE_HW = (64, 48)
SIGMAS = np.array(COCO17.sigmas)


def numbers(low, high):
    return st.floats(low, high, allow_nan=False)


boxes = st.tuples(numbers(-2000, 2000), numbers(-2000, 2000), numbers(0, 3000), numbers(0, 3000))
rules = st.sampled_from(sorted(geometry.CROP_RULES))


@given(box=boxes, rule=rules, points=st.lists(st.tuples(numbers(-50, 100), numbers(-50, 100)), min_size=1, max_size=5))
def test_any_point_comes_back_from_the_picture_to_its_crop(box, rule, points):
    view = geometry.views(box, geometry.CROP_RULES[rule], SIZE_HW)
    matrix = geometry.crop_to_image(view, SIZE_HW)
    there = geometry.transform(matrix, np.array([points]))
    back = geometry.transform(geometry.invert(matrix), there)
    step = matrix[0, 0, 0]
    np.testing.assert_allclose(back[0], points, atol=1e-6 * (1 + np.abs(there).max() / step))


@given(box=boxes, rule=rules)
def test_any_view_holds_its_box_and_has_the_aspect_of_the_crop(box, rule):
    x, y, width, height = geometry.views(box, geometry.CROP_RULES[rule], SIZE_HW)[0].astype(float)
    assert math.isclose(width * SIZE_HW[0], height * SIZE_HW[1], rel_tol=1e-5)
    slack = 1e-5 * (abs(x) + abs(y) + width + height)
    assert width + slack >= max(box[2], 1) and height + slack >= max(box[3], 1)
    assert abs(x - (box[0] + box[2] / 2)) <= slack and abs(y - (box[1] + box[3] / 2)) <= slack


@given(codec=st.sampled_from(sorted(heatmaps.CODECS)), data=st.data())
def test_any_keypoint_in_the_crop_is_decoded_within_its_cell(codec, data):
    inside = st.tuples(numbers(2, SIZE_HW[1] - 4), numbers(2, SIZE_HW[0] - 4))
    points = np.array([data.draw(st.lists(inside, min_size=6, max_size=6))], np.float32)
    codec = heatmaps.CODECS[codec]
    maps = heatmaps.encode(codec, points, np.full((1, 6), 2), SIZE_HW)["heatmaps"]
    found, scores = heatmaps.decode(codec, maps)
    # Half a cell, and with CPN's decoder a quarter more: of a label's equal neighbours it takes one for higher.
    cells = 0.75 if codec.decoder == "second_peak" else 0.5
    assert np.abs(found.numpy() - points).max() <= cells * heatmaps.HEATMAP_STRIDE + 1e-4
    assert (scores.numpy() > 0).all()


@given(codec=st.sampled_from(sorted(heatmaps.CODECS)), seed=st.integers(0, 2**32 - 1), scale=numbers(-1e6, 1e6))
def test_any_heatmaps_are_decoded_to_finite_places_near_the_crop(codec, seed, scale):
    maps = np.random.default_rng(seed).normal(size=(2, 16, 12, 3)).astype(np.float32) * np.float32(scale)
    found, scores = heatmaps.decode(heatmaps.CODECS[codec], maps)
    assert np.isfinite(scores.numpy()).all()
    assert (found.numpy() >= -heatmaps.HEATMAP_STRIDE).all()
    assert (found.numpy() <= np.array(SIZE_HW[::-1]) + heatmaps.HEATMAP_STRIDE).all()


def check_greedy(kept, scores, similar, threshold):
    """Kept ones differ, each dropped one is like a better one that is kept, and the best come first."""
    assert len(set(kept.tolist())) == len(kept)
    assert (np.diff(scores[kept]) <= 0).all()
    among = similar[np.ix_(kept, kept)] - np.eye(len(kept))
    assert (among <= threshold).all()
    for dropped in set(range(len(scores))) - set(kept.tolist()):
        better = kept[scores[kept] >= scores[dropped]]
        assert (similar[dropped, better] > threshold).any()


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 12), threshold=numbers(0.05, 0.95))
def test_any_poses_are_suppressed_by_a_better_one_alone(seed, count, threshold):
    rng = np.random.default_rng(seed)
    poses = rng.normal(0, 30, (3, 17, 2))[rng.integers(0, 3, count)] + rng.normal(0, 3, (count, 17, 2))
    scores, areas = rng.integers(0, 5, count) / 5, rng.uniform(1, 5000, count)
    kept = nms.oks_nms(poses, scores, areas, SIGMAS, threshold)
    check_greedy(kept, scores, nms.oks_matrix(poses, areas, SIGMAS), threshold)


@given(rows=st.lists(st.tuples(boxes, numbers(0, 1)), max_size=12), threshold=numbers(0.05, 0.95))
def test_any_boxes_are_suppressed_by_a_better_one_alone(rows, threshold):
    shapes = np.array([box for box, _ in rows], float).reshape(-1, 4)
    scores = np.array([score for _, score in rows], float)
    similar = nms.iou_matrix(shapes, shapes)
    assert ((similar >= 0) & (similar <= 1 + 1e-9)).all()
    kept = nms.box_nms(shapes, scores, threshold)
    flat = shapes.prod(axis=1, where=[False, False, True, True]) == 0  # such a box is not even like itself
    check_greedy(kept, scores, np.where(np.eye(len(rows)) * ~flat, 1, similar * (1 - np.eye(len(rows)))), threshold)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("any") / "any.json"


@given(rows=st.lists(values, max_size=6), others=st.dictionaries(st.text(max_size=3), values, max_size=3))
def test_any_object_is_read_in_pieces_as_it_is_read_at_once(path, rows, others):
    content = others | {"annotations": rows}
    path.write_text(json.dumps(content))
    taken = []
    members = json_file.read_object(path, "annotations", taken.extend)
    assert members | {"annotations": taken} == content == json_file.read_json(path)


@given(others=st.dictionaries(st.text(max_size=3), values, max_size=3), data=st.data())
def test_any_damaged_text_is_accepted_only_where_a_json_reader_accepts_it(path, others, data):
    text = json.dumps(others | {"annotations": [{"id": 1}, {"id": 2}]})
    place = data.draw(st.integers(0, len(text) - 1))
    text = (
        text[:place] + data.draw(st.text('{}[],:"0 1eé\\', max_size=2)) + text[place + data.draw(st.integers(0, 2)) :]
    )
    path.write_text(text)
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    taken = []
    try:
        members = json_file.read_object(path, "annotations", taken.extend)
    except UserError:
        assert not isinstance(expected, dict)
        return
    if "annotations" in expected and isinstance(expected["annotations"], list) and text.count('"annotations"') == 1:
        members |= {"annotations": taken}
    assert members == expected or text.count('"annotations"') != 1


@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["id", "image_id", "bbox", "keypoints", "area"]), values), max_size=5)
)
def test_any_annotations_are_read_or_refused_in_one_line(path, rows):
    category = {"id": 1, "name": "p", "keypoints": ["nose", "neck"]}
    content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": rows, "categories": [category]}
    path.write_text(json.dumps(content))
    try:
        read = read_annotations(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(read.persons.boxes_image_xywh).all() and np.isfinite(read.persons.area).all()
        assert len(read.persons.ids) <= len(rows)


# Files with damage at any place: seeded, bounded, and never a crash, a hang or a silent yes.

NOISE = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8), (96, 72))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_picture_cut_anywhere_is_refused_by_both_readers(tmp_path, suffix):
    data = encoded(suffix, NOISE)
    paths = []
    for share in np.linspace(0.02, 0.97, 12):
        paths.append(tmp_path / f"{share:.2f}{suffix}")
        paths[-1].write_bytes(data[: int(len(data) * share)])
    found = files.undecodable(list(map(str, paths)))
    for one in paths:
        assert found.get(str(one)), one.name
        with pytest.raises(UserError):
            images.read_image(one)


def test_a_picture_with_flipped_bytes_is_a_picture_or_named(tmp_path):
    rng = np.random.default_rng(1)
    paths = []
    for suffix in (".jpg", ".png", ".gif", ".bmp", ".webp"):
        for trial in range(12):
            data = bytearray(encoded(suffix, NOISE))
            for place in rng.integers(0, min(len(data), 600), 3):
                data[place] ^= int(rng.integers(1, 256))
            paths.append(tmp_path / f"{trial}{suffix}")
            paths[-1].write_bytes(data)
    found = files.decoded(list(map(str, paths)))
    assert len(found) == len(paths)
    for outcome in found.values():
        assert (isinstance(outcome, str) and outcome) or (len(outcome) == 2 and np.prod(outcome) <= images.MAX_PIXELS)


@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors", ".npz"])
def test_weights_with_flipped_bytes_fill_the_model_wholly_or_not_at_all(tmp_path, suffix):
    model = kpzoo.build("simplebaseline_tiny", image_hw=(64, 64))
    whole = kpzoo.save_weights(model, tmp_path / f"whole{suffix}").read_bytes()
    before, rng = model.get_weights(), np.random.default_rng(2)
    path = tmp_path / f"broken{suffix}"
    for trial in range(12):
        data = bytearray(whole[: rng.integers(1, len(whole))] if trial % 3 == 0 else whole)
        for place in rng.integers(0, min(len(data), 6000), 4):
            data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            kpzoo.load_weights(model, path)
        except UserError as error:
            assert "\n" not in str(error)
            for now, kept in zip(model.get_weights(), before, strict=True):
                np.testing.assert_array_equal(now, kept)
        else:
            assert len(data) == len(whole)
            changed = sum((now != kept).sum() for now, kept in zip(model.get_weights(), before, strict=True))
            assert changed <= 4 and all(np.isfinite(array).all() for array in model.get_weights())
            model.set_weights(before)


def test_published_weights_with_any_flipped_byte_are_never_read(tmp_path, monkeypatch):
    import hashlib

    data = np.random.default_rng(3).bytes(5000)
    (tmp_path / "a.weights.h5").write_bytes(data)
    rest = dict(image_hw=(64, 64), skeleton="coco17", options={}, license="-", origin="-", recipe="-", metrics="-")
    url = (tmp_path / "a.weights.h5").as_uri()
    row = published.Weights("cpn_tiny", url, hashlib.sha256(data).hexdigest(), **rest)
    monkeypatch.setitem(published.ROWS, "cpn_tiny.any_v1", row)
    monkeypatch.setenv("KPZOO_HOME", str(tmp_path / "home"))
    for place in np.random.default_rng(4).integers(0, len(data), 20):
        broken = bytearray(data)
        broken[place] ^= 1
        (tmp_path / "home").mkdir(exist_ok=True)
        (tmp_path / "home/a.weights.h5").write_bytes(broken)
        assert published.fetch("cpn_tiny.any_v1").read_bytes() == data
