"""Composed scenes: photos and annotations agree, the same seed gives the same bytes, crowding does what it says."""

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SHARED
from pycocotools import mask as rle

import kpzoo
from kpzoo import cli
from kpzoo.data import load, make_dataset
from kpzoo.errors import UserError
from kpzoo.scenes import Crowd, composed, layers
from kpzoo.scenes.body_masks import body_heights, grown_mask
from kpzoo.scenes.composed import compose_scene, write_composed
from kpzoo.scenes.cutout_folder import PIXELS, StoredCutouts
from kpzoo.scenes.cutouts import Cutouts, decoded
from kpzoo.scenes.drawn import draw_scene
from kpzoo.skeletons import COCO17, CROWDPOSE14

pytestmark = [
    pytest.mark.usefixtures("unoptimized_graphs"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of pycocotools
]

SMALL_HW = (160, 200)


def as_crowdpose(keypoints):
    """COCO's 17 joints as CrowdPose's 14, all of them shown: the nose is the head, between the shoulders the neck."""
    rows = dict(zip(COCO17.keypoints, np.array(keypoints, float).reshape(17, 3), strict=True))
    rows["head"], rows["neck"] = rows["nose"], (rows["left_shoulder"] + rows["right_shoulder"]) / 2
    values = np.stack([rows[name] for name in CROWDPOSE14.keypoints])
    values[:, 2] = np.where(values[:, 2] > 0, 2, 0)
    return values.ravel().tolist()


def write_source(folder, masks, count=24):
    """One drawn person a picture: 17 joints and masks as in COCO, or 14 joints and none as in Leeds' sports photos."""
    skeleton = COCO17 if masks else CROWDPOSE14
    (folder / "images/train").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, persons = [], []
    for index in range(count):
        pixels, (person, *_) = draw_scene((5, index), people=(1, 1), image_hw=SMALL_HW)
        if not masks:
            del person["segmentation"]
            person["keypoints"] = as_crowdpose(person["keypoints"])
        cv2.imwrite(str(folder / f"images/train/{index}.png"), pixels[..., ::-1])
        images.append({"id": index, "file_name": f"{index}.png", "height": SMALL_HW[0], "width": SMALL_HW[1]})
        persons.append({"id": index + 1, "image_id": index, **person})
    category = {"id": 1, "name": "person", "keypoints": list(skeleton.keypoints), "skeleton": []}
    content = {"images": images, "annotations": persons, "categories": [category]}
    (folder / "annotations/person_keypoints_train.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module", params=["coco17 with masks", "crowdpose14 without"])
def folder(request, tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"), masks="with masks" in request.param)


@pytest.fixture(scope="module")
def people(folder):
    return Cutouts(load(folder, "train"))


@pytest.fixture
def own_folder(tmp_path):
    return write_source(tmp_path / "source", masks=True, count=12)


def rewrite(folder, change):
    path = folder / "annotations/person_keypoints_train.json"
    content = json.loads(path.read_text())
    for person in content["annotations"]:
        change(person)
    path.write_text(json.dumps(content))
    return load(folder, "train")


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mask_of(annotation):
    return decoded(annotation["segmentation"], annotation["segmentation"]["size"]).astype(bool)


def overlap(one, other):
    (ax, ay, aw, ah), (bx, by, bw, bh) = one["bbox"], other["bbox"]
    shared = max(0.0, min(ax + aw, bx + bw) - max(ax, bx)) * max(0.0, min(ay + ah, by + bh) - max(ay, by))
    return shared / (aw * ah + bw * bh - shared)


def test_the_same_arguments_give_the_same_scene_whatever_was_made_before(folder, people):
    fresh = Cutouts(load(folder, "train"))
    compose_scene((1, 1), fresh)
    for source in (people, fresh):
        image, annotations = compose_scene((1, 2), source, crowding=0.7)
        again, same = compose_scene((1, 2), people, crowding=0.7)
        assert np.array_equal(image, again) and annotations == same
    other, _ = compose_scene((1, 3), people, crowding=0.7)
    assert other.shape != image.shape or not np.array_equal(image, other)


def test_a_longer_data_set_begins_with_the_shorter_one_and_loads(people, tmp_path):
    short, long = (write_composed(people, tmp_path / str(count), count, seed=4, people=(2, 2)) for count in (2, 3))
    first, second = (json.loads(path.read_text()) for path in (short, long))
    assert first["images"] == second["images"][:2]
    assert first["annotations"] == second["annotations"][: len(first["annotations"])]
    for entry in first["images"]:
        pictures = [tmp_path / count / "images/train" / entry["file_name"] for count in ("2", "3")]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
    data = load(tmp_path / "3", "train")
    assert data.skeleton == people.data.skeleton and not data.annotations.problems
    other = write_composed(people, tmp_path / "val", 1, seed=4, people=(2, 2), split="val")
    assert json.loads(other.read_text())["annotations"][0]["keypoints"] != first["annotations"][0]["keypoints"]


def test_annotations_agree_with_each_other(people):
    num_hidden = 0
    for index in range(12):
        image, annotations = compose_scene((2, index), people, crowding=0.8)
        height, width = image.shape[:2]
        masks = [mask_of(annotation) for annotation in annotations]
        assert sum(mask.astype(int) for mask in masks).max() == 1, "masks of different people share no pixel"
        for place, annotation in enumerate(annotations):
            x, y, w, h = annotation["bbox"]
            assert 0 <= x <= x + w <= width and 0 <= y <= y + h <= height and 0 < annotation["area"]
            keypoints = np.array(annotation["keypoints"]).reshape(-1, 3)
            assert annotation["num_keypoints"] == (keypoints[:, 2] > 0).sum()
            assert (keypoints[keypoints[:, 2] == 0] == 0).all()
            before = np.zeros((height, width), np.uint8)
            for mask in masks[place + 1 :]:
                before |= mask
            before = cv2.erode(before, np.ones((3, 3))) > 0  # edges differ by a pixel
            for column, row, v in keypoints[keypoints[:, 2] > 0]:
                assert -0.5 <= column <= width - 0.5 and -0.5 <= row <= height - 0.5
                top, left = max(round(row) - 1, 0), max(round(column) - 1, 0)
                near = before[top : round(row) + 2, left : round(column) + 2]
                if v == 2:
                    assert near.mean() <= 0.5 or near.size < 9, "a visible joint is not occluded by another person"
                num_hidden += v == 1 and near.mean() > 0
    assert num_hidden > 10


def test_keypoints_boxes_and_areas_move_with_the_person(people):
    image_hw = 300, 400
    person = int(people.movable[0])
    box, points = people.boxes_xyxy[person], people.keypoints_xy[person]
    corner = np.array([90.0, 40.0])
    plain = layers.moved_layer(people, person, 1.5, corner, False, image_hw)
    mirrored = layers.moved_layer(people, person, 1.5, corner, True, image_hw)
    assert plain.box_xyxy == pytest.approx([*corner, *(corner + 1.5 * (box[2:] - box[:2]))], abs=1.5)
    assert mirrored.box_xyxy == pytest.approx(plain.box_xyxy, abs=1.5)
    labelled = plain.visibility > 0
    assert plain.keypoints_xy[labelled] == pytest.approx((corner + 1.5 * (points - box[:2]))[labelled], abs=1.5)
    order = people.data.skeleton.flip_order
    assert np.array_equal(mirrored.visibility, plain.visibility[order])
    across = plain.box_xyxy[0] + plain.box_xyxy[2] - plain.keypoints_xy[order, 0]
    shown = mirrored.visibility > 0
    assert mirrored.keypoints_xy[shown, 0] == pytest.approx(across[shown], abs=2.5)
    assert plain.area == pytest.approx(2.25 * people.data.annotations.persons.area[person], rel=0.05)
    columns = np.array([[x, 60.0] for x in range(60, 200, 7)])
    swapped = columns * (-1, 1) + (plain.box_xyxy[0] + plain.box_xyxy[2] - 1, 0)
    np.testing.assert_array_equal(plain.covers(columns), mirrored.covers(swapped))
    assert plain.covers(columns).any() and not plain.covers(columns).all()


def test_what_reaches_over_the_border_is_clipped_and_its_joints_are_not_labelled(people):
    image_hw = 300, 400
    person = int(people.movable[0])
    size = people.boxes_xyxy[person, 2:] - people.boxes_xyxy[person, :2]
    whole = layers.moved_layer(people, person, 1.0, np.array([100.0, 100.0]), False, image_hw)
    cut = layers.moved_layer(people, person, 1.0, np.array([100.0, -size[1] / 2]), False, image_hw)
    assert cut.box_xyxy[1] == 0 and cut.box_xyxy[3] == pytest.approx(size[1] / 2, abs=1)
    assert cut.area == pytest.approx(whole.area / 2, rel=0.05)
    assert layers.occlusion_of(0, [whole], image_hw)[1]
    almost_outside = layers.moved_layer(people, person, 1.0, np.array([100.0, -0.95 * size[1]]), False, image_hw)
    assert not layers.occlusion_of(0, [almost_outside], image_hw)[1], "what lies outside counts as hidden"
    above = cut.keypoints_xy[:, 1] < -0.5
    assert above.any() and not cut.visibility[above].any() and cut.visibility[~above].any()


def test_pixels_under_nobody_are_the_photos_own(people):
    image, annotations = compose_scene(11, people, crowding=0.3, people=(2, 2))
    same = []
    for person in range(len(people.boxes_xyxy)):
        photo = people.photo(person)
        same.append((photo == image).all(axis=2).mean() if photo is not None else 0)
    covered = np.any([mask_of(annotation) for annotation in annotations], axis=0).mean()
    assert max(same) > 0.97 - covered


def test_more_crowding_means_more_overlap_up_to_that_of_ochuman(people):
    curve = []
    for crowding in (0.0, 0.5, 1.0):
        nearest = []
        for index in range(25):
            _, annotations = compose_scene((3, index), people, crowding=crowding, people=(2, 3))
            for one in annotations:
                nearest.append(max([overlap(one, other) for other in annotations if other is not one], default=0.0))
        curve.append(np.mean(nearest))
    assert curve[0] < 0.08
    assert 0.2 < curve[1] < 0.45
    assert curve[2] == pytest.approx(0.67, abs=0.08)


@pytest.mark.parametrize("closeness", [0.0, 0.1, 0.46, 0.9])
def test_boxes_are_placed_with_the_wanted_overlap_in_every_direction(closeness):
    rng = np.random.default_rng(7)
    for _ in range(50):
        one, other = rng.uniform(5, 200, (2, 2))
        angles = np.append(rng.uniform(0, 2 * np.pi, 9), [0.0, np.pi / 2, np.pi])
        headings = np.stack([np.cos(angles), np.sin(angles)])
        distance = composed._distance(one, other, np.abs(headings), closeness)
        x, y = distance * headings + ((one - other) / 2)[:, None]
        found = composed._overlaps((x, y, x + other[0], y + other[1]), (0.0, 0.0, *one))
        largest = min(one[0], other[0]) * min(one[1], other[1])
        largest /= one.prod() + other.prod() - largest
        np.testing.assert_allclose(found, min(closeness, largest), atol=1e-9)


def test_nobody_is_hidden_almost_wholly(people):
    for index in range(15):
        _, annotations = compose_scene((6, index), people, crowding=1.0, people=(3, 3))
        assert len(annotations) >= 2
        for annotation in annotations:
            v = np.array(annotation["keypoints"][2::3])
            assert mask_of(annotation).sum() > 0 and (v > 0).sum() >= 3


def test_a_grown_mask_is_close_to_the_drawn_one(tmp_path):
    source = Cutouts(load(write_source(tmp_path, masks=True), "train"))
    persons, agreement = source.data.annotations.persons, []
    for person in source.movable.tolist():
        true = decoded(persons.segmentation[person], SMALL_HW) > 0
        grown = grown_mask(
            source.photo(person), COCO17, source.keypoints_xy[person], source.visibility[person], source.heights[person]
        )
        agreement.append((true & (grown > 127)).sum() / (true | (grown > 127)).sum())
    assert np.mean(agreement) > 0.6


def test_heights_come_from_the_longest_parts_and_not_from_where_the_person_is():
    points = np.zeros((14, 2))
    for x, side in ((10, "left"), (-10, "right")):
        for name, y in (("shoulder", 20), ("hip", 49), ("knee", 73), ("ankle", 97)):
            points[CROWDPOSE14.keypoints.index(f"{side}_{name}")] = x, y
    labelled = (points != 0).any(axis=1)
    heights = body_heights(
        CROWDPOSE14, np.stack([points, 2 * points + 7, points]), np.stack([labelled] * 2 + [0 * labelled])
    )
    assert heights[:2] == pytest.approx([100, 200]) and np.isnan(heights[2])


@pytest.mark.parametrize(
    "segmentation, size",
    [([[10, 10, 50, 10, 50, 40, 10, 40]], 1200), ({"size": [60, 80], "counts": [60 * 10, 60, 60 * 69]}, 60)],
)
def test_polygons_and_run_lengths_are_read(segmentation, size):
    assert decoded(segmentation, (60, 80)).sum() == pytest.approx(size, rel=0.1)
    assert decoded(rle.encode(np.asfortranarray(decoded(segmentation, (60, 80)))), (60, 80)).sum() > 0


def test_other_people_of_the_photo_keep_their_annotations(own_folder, tmp_path):
    path = own_folder / "annotations/person_keypoints_train.json"
    content = json.loads(path.read_text())
    crowd = {"size": list(SMALL_HW), "counts": [0, 40, SMALL_HW[0] * SMALL_HW[1] - 40]}
    for index in range(12):
        stranger = {"id": 100 + index, "image_id": index, "category_id": 1, "iscrowd": 1, "area": 40.0}
        stranger |= {"bbox": [0, 0, 1, 40], "keypoints": [0] * 51, "num_keypoints": 0, "segmentation": crowd}
        content["annotations"].append(stranger)
    path.write_text(json.dumps(content))
    _, annotations = compose_scene(3, Cutouts(load(own_folder, "train")), people=(2, 2))
    assert [annotation["iscrowd"] for annotation in annotations] == [1, 0, 0]
    assert annotations[0]["bbox"] == [0, 0, 1, 40]


def test_a_damaged_picture_is_named_and_left_out(own_folder, tmp_path, capsys):
    data = load(own_folder, "train")
    for name in ("0.png", "1.png", "2.png"):
        (own_folder / "images/train" / name).write_bytes(b"\x89PNG\r\n")
    write_composed(data, tmp_path / "set", 12, people=(2, 3))
    told = capsys.readouterr().err
    assert told.count("skipped: ") == len({line for line in told.splitlines()}) >= 1
    assert "0.png" in told or "1.png" in told or "2.png" in told
    for index in range(12):
        (own_folder / f"images/train/{index}.png").unlink()
    with pytest.raises(UserError, match="No picture in .* can be read"):
        write_composed(data, tmp_path / "none", 1)
    assert not (tmp_path / "none/annotations/person_keypoints_train.json").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crowding": 1.5}, r"`crowding=` must be in \[0, 1\]. Received: 1.5"),
        ({"crowding": float("nan")}, "`crowding=` must be in .* Received: nan"),
        ({"people": (1, 1)}, r"Received: \(1, 1\)"),
        ({"people": (3, 2)}, r"Received: \(3, 2\)"),
        ({"num_images": 0}, "at least one image. Received: 0"),
        ({"seed": -1}, "`seed=` must be 0 or more"),
        ({"split": "a/b"}, "plain name"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(people, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        write_composed(people, tmp_path / "set", **{"num_images": 1, **options})
    assert not (tmp_path / "set").exists()


def test_the_source_is_never_written_into(own_folder):
    before = files_of(own_folder)
    for target in (own_folder, own_folder / "images", own_folder / "images/train"):
        with pytest.raises(UserError, match="is the source's own folder"):
            write_composed(load(own_folder, "train"), target, 1, split="more", overwrite=True)
    assert files_of(own_folder) == before


def test_only_what_was_composed_is_overwritten(people, tmp_path):
    write_composed(people, tmp_path, 1, people=(2, 2))
    with pytest.raises(UserError, match="exists already"):
        write_composed(people, tmp_path, 1)
    write_composed(people, tmp_path, 2, people=(2, 2), overwrite=True)
    path = tmp_path / "annotations/person_keypoints_train.json"
    path.write_text(path.read_text().replace(composed.GENERATOR, "kpzoo.data.synthetic 1"))
    with pytest.raises(UserError, match="written by kpzoo.data.synthetic 1, not by kpzoo.data.compose"):
        write_composed(people, tmp_path, 1, overwrite=True)


def test_people_who_are_not_annotated_well_are_not_cut_out(own_folder):
    def forget(person):
        person["keypoints"][3 * 7 :] = [0] * (3 * 10)

    with pytest.raises(UserError, match="no person to cut out. Received: 12 annotations, of them 0 with"):
        Cutouts(rewrite(own_folder, forget))


def test_a_damaged_mask_is_named(own_folder):
    data = rewrite(own_folder, lambda person: person.update(segmentation={"size": [5, 5], "counts": [25]}))
    with pytest.raises(UserError, match="annotation [0-9]+ has an invalid `segmentation`: .* image of"):
        compose_scene(0, Cutouts(data))


def test_the_command_composes_and_counts(own_folder, tmp_path, capsys):
    options = ["--images", "2", "--people", "2", "2", "--crowding", "0.9", "--seed", "3"]
    cli.main(["data", "compose", str(own_folder), str(tmp_path / "set"), *options])
    told = capsys.readouterr()
    data = load(annotations=told.out.strip())
    assert len(data.annotations.image_ids) == 2 and "generated 2/2 images" in told.err


def test_composing_does_not_need_tensorflow(folder):
    code = (
        "import sys\nfrom kpzoo.data import load\nfrom kpzoo.scenes.composed import compose_scene\n"
        "from kpzoo.scenes.cutouts import Cutouts\n"
        f"compose_scene(0, Cutouts(load({str(folder)!r}, 'train')))\nsys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data beside the project")
@pytest.mark.parametrize("name, split, num_keypoints", [("lspet", "val", 14), ("coco_real", "train", 17)])
def test_real_photos_are_composed(name, split, num_keypoints, tmp_path):
    write_composed(load(SHARED / "data" / name, split), tmp_path, 3, crowding=0.6)
    data = load(tmp_path, "train")
    assert data.annotations.persons.visibility.shape[1] == num_keypoints
    assert (np.bincount(data.annotations.persons.image_index, minlength=3) >= 2).all()
    shutil.rmtree(tmp_path / "images")


def test_composed_scenes_stand_in_for_a_share_of_the_crops(folder):
    data = load(folder)
    model = kpzoo.build("mipnet_cpn_tiny", image_hw=(64, 64), skeleton=data.skeleton)

    def batches(share, start=0, count=3):
        crowd = Crowd(data, share) if share is not None else None
        stream = make_dataset(data, model, 6, augment="cpn", seed=4, crowd=crowd, start_step=start, check_images=False)
        return [{name: value.numpy() for name, value in batch.items()} for batch in stream.take(count)]

    shares = []
    for plain, none, some in zip(batches(None), batches(0.0), batches(0.5), strict=True):
        for name, value in plain.items():
            np.testing.assert_array_equal(none[name], value)
        kept = (some["image"] == plain["image"]).all(axis=(1, 2, 3))
        shares.append(kept.mean())
    assert 0.1 < np.mean(shares) < 0.9
    assert not any(batch["present"][:, 1].any() for batch in batches(None))  # each photo shows one person
    assert sum(batch["present"][:, 1].sum() for batch in batches(1.0)) > 0
    (late,), (*_, expected) = batches(0.5, start=2, count=1), batches(0.5)
    for name, value in expected.items():
        np.testing.assert_array_equal(late[name], value)


def crop_of(image, crop_to_image):
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image.astype(np.float32), crop_to_image, (48, 64), flags=flags, borderValue=(90, 80, 70))


@pytest.mark.parametrize("turn, mirrored", [(0.0, False), (0.5, True)])
def test_a_composed_crop_is_the_crop_of_the_scene(folder, people, turn, mirrored):
    crowd = Crowd(people.data, crowding=0.6)
    for count in range(8):
        image, annotations = compose_scene((9, count, 1), people, crowding=0.6)
        host, persons, maps, boxes, labels, chosen = crowd.plan(9, count)
        shown = [row for row in annotations if row["num_keypoints"]]
        assert boxes == pytest.approx(np.array([row["bbox"] for row in shown]), abs=0.01)
        visible = labels[..., 2:3] > 0
        expected = np.array([row["keypoints"] for row in shown]).reshape(labels.shape[0], -1, 3)
        assert np.where(visible, labels[..., :2], 0) == pytest.approx(expected[..., :2], abs=0.01)
        np.testing.assert_array_equal(labels[..., 2], expected[..., 2])
        x, y, w, h = boxes[chosen].tolist()
        zoom = max(h / 64, w / 48) * 1.25
        linear = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        linear[:, 0] *= -1 if mirrored else 1
        crop_to_scene = np.column_stack([linear, (x + w / 2, y + h / 2) - linear @ (24, 32)])
        crop = crowd.overlay(crop_of(people.photo(host), crop_to_scene), crop_to_scene, host, persons, maps)
        error = np.abs(crop - crop_of(image, crop_to_scene)).mean(axis=2)
        assert error.mean() < 2.5 and (error > 40).mean() < 0.01, "the edges of people differ by less than a pixel"


def test_stored_cutouts_are_those_that_are_made_on_demand(people, tmp_path, capsys):
    stored = StoredCutouts(people.data, tmp_path / "cutouts", progress=True)
    assert "cut people out of 24/24 photos" in capsys.readouterr().err
    for person in people.hosts.tolist():
        one, other = people.cut(person), stored.cut(person)
        np.testing.assert_array_equal(one.alpha, other.alpha)
        np.testing.assert_array_equal(one.samples_xy, other.samples_xy)
        assert one.light.contrast == other.light.contrast and one.light.is_grey == other.light.is_grey
        if person in people.movable:
            np.testing.assert_array_equal(people.pixels(person), stored.pixels(person))
    again = StoredCutouts(people.data, tmp_path / "cutouts", progress=True)
    assert not capsys.readouterr().err, "the second run reads the folder"
    np.testing.assert_array_equal(again.cut(0).alpha, stored.cut(0).alpha)


def test_large_people_are_stored_smaller_and_stay_where_they_are(people, monkeypatch, tmp_path):
    monkeypatch.setattr("kpzoo.scenes.cutout_folder._FINEST", 40.0)
    small = Crowd(people.data, crowding=0.6)
    whole = Crowd(people.data, crowding=0.6)
    assert small.source.cut(0).alpha.size < people.cut(0).alpha.size
    monkeypatch.undo()
    for count in range(4):
        host, persons, maps, _, labels, _ = whole.plan(4, count)
        other_host, others, other_maps, _, other_labels, _ = small.plan(4, count)
        assert host == other_host and persons.tolist() == others.tolist()
        np.testing.assert_allclose(maps, other_maps)
        np.testing.assert_array_equal(labels[..., :2], other_labels[..., :2])


@pytest.mark.parametrize("damage", ["cut", "other", "none", "file"])
def test_a_folder_that_does_not_hold_these_cutouts_is_refused(people, own_folder, tmp_path, damage):
    folder = tmp_path / "cutouts"
    StoredCutouts(people.data if damage == "other" else load(own_folder, "train"), folder)
    if damage == "cut":
        with (folder / PIXELS).open("r+b") as file:
            file.truncate(1000)
    elif damage == "none":
        (folder / "cutouts.json").unlink()
    elif damage == "file":
        folder = own_folder / "annotations/person_keypoints_train.json"
    with pytest.raises(UserError, match="not a folder of cut-outs" if damage in ("none", "file") else "incomplete, or"):
        StoredCutouts(load(own_folder, "train"), folder)


def test_temporary_cutouts_are_removed(people):
    crowd = Crowd(people.data)
    folder = Path(crowd.source._bytes.filename).parent
    assert folder.exists()
    del crowd
    gc.collect()
    assert not folder.exists()


def test_people_who_cannot_be_cut_out_are_told_before_the_training(own_folder, tmp_path):
    def forget(person):
        person["keypoints"][3 * 7 :] = [0] * (3 * 10)

    data, model = rewrite(own_folder, forget), kpzoo.build("cpn_tiny", image_hw=(64, 64))
    with pytest.raises(UserError, match="has no person to cut out"):
        make_dataset(data, model, 2, crowd=Crowd(data), check_images=False)
    make_dataset(data, model, 2, crowd=Crowd(data, 0.0), check_images=False)  # composes nothing


def test_a_folder_for_cutouts_needs_crowds(folder, tmp_path, capsys):
    options = ["--model", "cpn_tiny", "--data", str(folder), "--out", str(tmp_path / "run")]
    assert cli.main(["train", *options, "--cutouts", str(tmp_path / "cutouts")]) == 2
    assert "Add --crowd SHARE" in capsys.readouterr().err


@pytest.mark.parametrize("how", [dict(share=1.5), dict(crowding=-1), dict(people=(3, 2))])
def test_crowds_that_cannot_be_are_refused(how):
    with pytest.raises(UserError, match="must"):
        Crowd(None, **how)


def test_data_sets_of_before_are_recognised():
    assert (
        composed.GENERATOR.split()[0] == "kpzoo.data.compose"
    )  # what is written in them; it must not follow the module's name
