"""Exports of other programs become COCO-format folders that are whole, checked and trained on."""

import json
import shutil
from pathlib import Path

import cv2
import exports
import numpy as np
import pytest
from exports import EXPORTS, HEIGHT, NAMES, WIDTH

import kpzoo
from kpzoo import cli, convert, images
from kpzoo.convert import dataframes, formats, layouts, model
from kpzoo.data import check, load, make_dataset
from kpzoo.errors import UserError
from kpzoo.losses import default_loss
from kpzoo.skeletons import COCO17

FORMAT_OF = {
    "cvat_video": "cvat",
    "labelstudio_min": "labelstudio",
    "deeplabcut_h5": "deeplabcut",
    "sleap_analysis": "sleap",
    "mpii_mat": "mpii",
    "lsp_extended": "lsp",
    "roboflow": "coco",
    "crowdpose": "coco",
    "posetrack18": "coco",
    "halpe": "coco",
}


def made(name: str, folder: Path) -> tuple[Path, list[np.ndarray]]:
    """Writes an export. Returns its folder, and the keypoints of its persons."""
    folder.mkdir(exist_ok=True)
    return folder, EXPORTS[name](folder)


def run(*arguments) -> int:
    return cli.main(["data", "convert", *map(str, arguments)])


def rows_of(out: Path) -> list[dict]:
    """The annotations of all files of a folder, in order."""
    return [row for path in sorted(out.glob("annotations/*")) for row in json.loads(path.read_text())["annotations"]]


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_guessed_read_checked_and_loaded(name, tmp_path, capsys):
    source, found = made(name, tmp_path / "in")
    run(source, tmp_path / "out")
    told = capsys.readouterr()
    assert f"({FORMAT_OF.get(name, name)}), guessed by its content" in told.err
    paths = [Path(line) for line in told.out.split()]
    read = np.array([row["keypoints"] for row in rows_of(tmp_path / "out")]).reshape(len(found), -1, 3)
    np.testing.assert_allclose(read, found, atol=1e-4)
    for one in check.check(tmp_path / "out"):
        assert one.clean, str(one)
    data = [load(tmp_path / "out", path.stem) for path in paths]
    assert sum(len(one.annotations.image_ids) for one in data) == (3 if name.startswith("lsp") or "h5" in name else 2)
    for one in data:
        for path in one.image_paths(one.annotations.image_ids):
            assert images.size_of(path) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("name", EXPORTS)
def test_two_steps_of_training_run_on_it(name, tmp_path, unoptimized_graphs):
    source, _ = made(name, tmp_path / "in")
    path = convert.to_coco(convert.read(source), tmp_path / "out")[0]
    data = load(tmp_path / "out", path.stem)
    network = kpzoo.build("simplebaseline_tiny", image_hw=(64, 64), skeleton=data.skeleton)
    network.compile("adam", default_loss(network.preset), run_eagerly=True)
    history = network.fit(make_dataset(data, network, 1), steps_per_epoch=2, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("name", EXPORTS)
def test_boxes_are_those_of_the_export_or_the_extent_of_the_joints(name, tmp_path):
    source, found = made(name, tmp_path / "in")
    convert.to_coco(convert.read(source), tmp_path / "out")
    without = ("cvat_video", "deeplabcut", "deeplabcut_h5", "sleap", "sleap_analysis", "mpii", "mpii_mat", "lsp")
    for row, points in zip(rows_of(tmp_path / "out"), found, strict=True):
        expected = exports.box(points)
        if name in (*without, "lsp_extended", "openpose"):
            x, y, width, height = model.grown_extent(points)
            low, high = np.maximum([x, y], 0), np.minimum([x + width, y + height], [WIDTH, HEIGHT])
            expected = [*low, *(high - low)]
        np.testing.assert_allclose(row["bbox"], expected, atol=1e-4)


def test_a_missing_box_grows_by_a_tenth_of_the_longer_side_on_each_side():
    points = np.array([[10, 20, 2], [30, 60, 1], [500, 500, 0]], float)
    assert model.grown_extent(points) == (6, 16, 28, 48)
    assert model.grown_extent(points[:1]) == (9.5, 19.5, 1, 1)
    assert model.grown_extent(points[2:]) is None


def test_files_are_guessed_like_their_folders(tmp_path):
    for name, file in (
        ("yolo", "data.yaml"), ("cvat", "annotations.xml"), ("labelstudio", "export.json"), ("aic", None),
        ("deeplabcut", "labeled-data/clip/CollectedData_me.csv"), ("mpii", "annot/train.json"), ("crowdpose", None),
    ):  # fmt: skip
        source, found = made(name, tmp_path / name)
        file = source / file if file else next(source.rglob("*.json"))
        export = convert.read(file)
        assert sum(len(picture.persons) for picture in export.pictures) == len(found), name


def test_the_guess_names_the_formats_if_there_is_none_or_several(tmp_path):
    (tmp_path / "facts.json").write_text("{}")
    with pytest.raises(UserError, match="no format was recognized among 1 files. Known formats: yolo, cvat, "):
        convert.read(tmp_path)
    made("cvat", tmp_path)
    made("labelme", tmp_path)
    with pytest.raises(UserError, match=r"files of several formats: cvat \(annotations.xml\), labelme \(one.json\)"):
        convert.read(tmp_path)
    assert len(convert.read(tmp_path, "labelme", images=made("cvat", tmp_path / "other")[0]).pictures) == 2
    with pytest.raises(UserError, match="Unknown format. Received: 'yol'. Did you mean 'yolo'"):
        convert.read(tmp_path, "yol")


# Rules and quirks of the formats


def test_points_without_group_and_box_are_one_person_with_a_note(tmp_path):
    source, _ = made("labelme", tmp_path)
    for name in ("one", "two"):
        content = json.loads((source / f"{name}.json").read_text())
        content["shapes"] = [{**row, "group_id": None} for row in content["shapes"] if row["shape_type"] == "point"]
        exports.save(source / f"{name}.json", content)
    export = convert.read(source)
    assert [len(picture.persons) for picture in export.pictures] == [1, 1]
    notes = "\n".join(export.notes.lines())
    assert "one person a picture (2: one.json, two.json)" in notes
    assert "points whose person has the keypoint already are not read (5: " in notes


def test_points_belong_to_the_smallest_box_that_holds_them(tmp_path):
    source, found = made("labelme", tmp_path)
    content = json.loads((source / "one.json").read_text())
    content["shapes"] = [{**row, "group_id": None} for row in content["shapes"]]
    whole = {"label": "stage", "points": [[0, 0], [WIDTH, HEIGHT]], "shape_type": "rectangle"}
    exports.save(source / "one.json", {**content, "shapes": [whole, *content["shapes"]]})
    export = convert.read(source)
    for person, points in zip(export.pictures[0].persons, found, strict=False):
        np.testing.assert_array_equal(person.keypoints, points)
    assert export.notes["boxes without points are not read"] == (1, ["one.json"])


def test_label_studio_joins_related_points_and_knows_hidden_ones(tmp_path):
    exports.picture(tmp_path / "one.jpg")
    whole = {"original_width": WIDTH, "original_height": HEIGHT, "type": "keypointlabels"}
    regions = [
        {"id": key, "value": {"x": 10.0 + k, "y": 50.0, "keypointlabels": [name]}, **whole}
        for k, (key, name) in enumerate(
            zip("abcdefg", ("nose", "eye", "ear", "nose", "eye", "ear", "ear"), strict=True)
        )
    ]
    regions += [{"type": "relation", "from_id": a, "to_id": b} for a, b in ("ab", "ed", "bc", "fe", "aa")]
    regions.append({"id": "e", "type": "choices", "value": {"choices": ["Occluded"]}})
    first = {"result": regions[:1], "was_cancelled": False}
    tasks = [{"data": {"picture": "http://host/0a1b2c3d-one.jpg?x=1"}, "annotations": [first, {"result": regions}]}]
    exports.save(tmp_path / "export.json", tasks)
    config = '<View><KeyPointLabels name="k"><Label value="ear"/><Label value="nose"/><Label value="eye"/>'
    exports.save(tmp_path / "config.xml", config + "</KeyPointLabels></View>")
    export = convert.read(tmp_path)
    assert export.categories[0].keypoints == ["ear", "nose", "eye"]
    flags = [person.keypoints[:, 2].tolist() for person in export.pictures[0].persons]
    assert flags == [[2, 2, 2], [2, 2, 1], [2, 0, 0]]
    assert export.notes["annotations of the same picture are not read: the ground truth or the last one is"][0] == 1


def test_embedded_pictures_of_labelme_are_written(tmp_path):
    source, _ = made("labelme", tmp_path / "in")
    content = json.loads((source / "one.json").read_text())
    content["imageData"] = exports.embedded(source / "one.jpg")
    exports.save(source / "one.json", content)
    data = (source / "one.jpg").read_bytes()
    (source / "one.jpg").unlink()
    convert.to_coco(convert.read(source), tmp_path / "out")
    assert (tmp_path / "out/images/train/one.jpg").read_bytes() == data
    exports.save(source / "one.json", {**content, "imageData": "no base64"})
    with pytest.raises(UserError, match="one.json: `imageData` is not a picture in base64"):
        convert.to_coco(convert.read(source), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_cvat_groups_join_boxes_and_points_and_shapes_of_several_points_are_persons(tmp_path):
    exports.picture(tmp_path / "one.jpg")
    box = '<box label="box" group_id="{}" xtl="{}" ytl="10" xbr="{}" ybr="90"/>'
    single = '<points label="{}" group_id="{}" outside="0" occluded="0" points="{},50"/>'
    shapes = [box.format(1, 60, 120), box.format(2, 5, 55), '<points label="wand" points="1,2;3,4;5,6"/>']
    shapes += [single.format(name, group, x) for name, group, x in (("a", 1, 20), ("b", 1, 70), ("a", 2, 80))]
    image = f'<image name="one.jpg" width="{WIDTH}" height="{HEIGHT}">{"".join(shapes)}<tag label="x"/></image>'
    exports.save(tmp_path / "annotations.xml", f"<annotations>{image}</annotations>")
    export = convert.read(tmp_path)
    wand, *rest = export.pictures[0].persons
    np.testing.assert_array_equal(wand.keypoints, [[1, 2, 2], [3, 4, 2], [5, 6, 2]])
    assert wand.box_xywh is None and wand.category.keypoints == ["1", "2", "3"]
    assert [person.box_xywh for person in rest] == [(60, 10, 60, 80), (5, 10, 50, 80)]
    np.testing.assert_array_equal(rest[1].keypoints, [[80, 50, 2], [0, 0, 0]])
    assert export.notes["shapes of the kind tag are not read"][0] == 1


def test_each_category_gets_its_own_annotation_file(tmp_path, capsys):
    source, found = made("roboflow", tmp_path / "in")
    path = source / "train/_annotations.coco.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 5, "name": "ski pole", "keypoints": ["tip", "grip"]})
    pole = {"id": 50, "image_id": 9, "category_id": 5, "bbox": [1, 1, 30, 30], "keypoints": [2, 3, 2, 20, 25, 1]}
    content["annotations"].append(pole)
    exports.save(path, content)
    run(source, tmp_path / "out")
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert names == ["person_keypoints_train.json", "ski_pole_keypoints_train.json"]
    assert load(tmp_path / "out", "ski_pole").skeleton.keypoints == ("tip", "grip")
    assert all(one.clean for one in check.check(tmp_path / "out"))
    run(source, tmp_path / "poles", "--category", "ski pole")
    assert len(rows_of(tmp_path / "poles")) == 1
    with pytest.raises(UserError, match="Unknown category in .* Expected one of 'person', 'ski pole'"):
        convert.read(source, category="boat")


def test_keypoints_without_names_get_those_of_a_skeleton(tmp_path):
    source, _ = made("yolo", tmp_path / "in")
    text = (source / "data.yaml").read_text()
    exports.save(source / "data.yaml", text.replace("flip_idx: [0, 2, 1, 4, 3]\n", ""))
    convert.to_coco(convert.read(source), tmp_path / "out")
    found = check.check(tmp_path / "out")[0]
    assert found.clean and not found.annotations.skeleton.sides_known
    assert found.annotations.skeleton.keypoints == ("1", "2", "3", "4", "5")
    with pytest.raises(UserError, match="has 5 keypoints, and skeleton 'coco17' has 17"):
        convert.read(source, skeleton="coco17")
    exports.save(source / "data.yaml", text + "kpt_names:\n  0: [a, left_b, right_b, left_c, right_c]\n")
    assert convert.read(source).categories[0].keypoints == ["a", "left_b", "right_b", "left_c", "right_c"]


def test_pictures_labelled_upright_are_turned_and_those_of_another_size_scale_their_labels(tmp_path):
    source, found = made("labelme", tmp_path / "in")
    pixels = images.read_image(source / "one.jpg")
    stored = np.ascontiguousarray(np.rot90(pixels))  # orientation 6: shown turned clockwise
    data = cv2.imencode(".jpg", stored[..., ::-1])[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (source / "one.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    assert images.size_of(source / "one.jpg") == (WIDTH, HEIGHT)
    exports.picture(source / "two.jpg", size_hw=(2 * HEIGHT, 2 * WIDTH))
    export = convert.read(source)
    convert.to_coco(export, tmp_path / "out")
    notes = "\n".join(export.notes.lines())
    assert "turned as their EXIF orientation says" in notes and "their labels are scaled (1: " in notes
    assert all(one.clean for one in check.check(tmp_path / "out"))
    rows = rows_of(tmp_path / "out")
    np.testing.assert_allclose(np.reshape(rows[2]["keypoints"], (-1, 3)), found[2] * (2, 2, 1))
    written = images.read_image(tmp_path / "out/images/train/one.jpg").astype(int)
    assert np.abs(written - pixels).mean() < 40 < np.abs(written[::-1] - pixels).mean()  # noise, as JPEG keeps it
    exports.picture(source / "two.jpg", size_hw=(HEIGHT, 2 * WIDTH))
    with pytest.raises(UserError, match="two.jpg is 256 x 96 pixels and was labelled at 128 x 96. It is another"):
        convert.to_coco(convert.read(source), tmp_path / "again")


def test_pictures_with_the_same_name_keep_their_folders(tmp_path):
    (tmp_path / "in").mkdir()
    for folder in ("a", "b"):
        made("labelme", tmp_path / "in" / folder)
    convert.to_coco(convert.read(tmp_path / "in"), tmp_path / "out")
    names = [row["file_name"] for row in json.loads(next(tmp_path.glob("out/annotations/*")).read_text())["images"]]
    assert names == ["a/one.jpg", "a/two.jpg", "b/one.jpg", "b/two.jpg"]
    assert all(one.clean for one in check.check(tmp_path / "out"))


def test_frames_of_a_video_are_the_labelled_ones(tmp_path):
    source, _ = made("sleap", tmp_path / "in")
    export = convert.read(source)
    assert export.categories[0].flip_pairs == [("left_hand", "right_hand"), ("left_foot", "right_foot")]
    assert export.categories[0].links == [("nose", "left_hand"), ("nose", "right_hand")]
    convert.to_coco(export, tmp_path / "out")
    greys = {path.name: images.read_image(path).mean() for path in tmp_path.glob("out/images/train/*")}
    assert greys == pytest.approx({"clip_000002.jpg": 40, "clip_000004.jpg": 80}, abs=2)
    exports.video(source / "clip.avi", 3)
    with pytest.raises(UserError, match="clip.avi has 3 frames that can be read, and frame 4 is labelled"):
        convert.to_coco(convert.read(source), tmp_path / "again")


def test_a_project_of_sleap_may_contain_its_pictures_and_predictions(tmp_path):
    import h5py

    source, found = made("sleap", tmp_path / "in")
    picture = exports.picture(tmp_path / "one.png")
    with h5py.File(source / "labels.slp", "a") as file:
        del file["videos_json"]
        file["videos_json"] = np.array([b'{"backend": {"filename": ".", "dataset": "video0/video"}}'])
        frames = file.create_dataset("video0/video", (2,), h5py.vlen_dtype(np.int8))
        for row in range(2):
            frames[row] = np.frombuffer(picture, np.int8)
        file["video0/frame_numbers"] = [4, 2]
        instances = file["instances"][()]
        instances[2]["instance_type"], instances[2]["point_id_start"], instances[2]["point_id_end"] = 1, 0, 5
        instances[2]["score"] = 0.75
        file["instances"][...] = instances
        kind = np.dtype([("x", "f8"), ("y", "f8"), ("visible", "?"), ("complete", "?"), ("score", "f8")])
        del file["pred_points"]
        file["pred_points"] = np.array([(x, y, True, False, 0.5) for x, y, _ in found[2]], kind)
    (source / "clip.avi").unlink()
    export = convert.read(source)
    convert.to_coco(export, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert rows[2]["score"] == 0.75 and rows[2]["keypoint_scores"] == [0.5] * 5
    assert (tmp_path / "out/images/train/labels_video0_000002.png").read_bytes() == picture
    assert export.notes["persons were predicted, not labelled: they are read with their `score`"][0] == 1


def test_poses_of_deeplabcut_name_the_frames_of_their_video(tmp_path):
    exports.video(tmp_path / "in/run.avi", 3)
    head = "scorer,net,net,net\nbodyparts,nose,nose,nose\ncoords,x,y,likelihood\n"
    exports.save(tmp_path / "in/runDLC_resnet50.csv", head + "0,5,6,0.9\n1,,,\n2,7,8,0.25\n")
    export = convert.read(tmp_path / "in")
    convert.to_coco(export, tmp_path / "out")
    assert [picture.source.index for picture in export.pictures] == [0, 2]
    assert [row["keypoint_scores"] for row in rows_of(tmp_path / "out")] == [[0.9], [0.25]]


def test_column_names_are_read_from_pickles_that_are_not_executed(tmp_path):
    import pickle

    names = [("me", "nose", "x"), ("me", "nose", "y")]
    for protocol in range(5):
        assert dataframes.unpickled_texts(pickle.dumps(names, protocol), tmp_path) == names
    touched = tmp_path / "touched"
    for evil in (b"cposix\nsystem\n(Vtouch " + str(touched).encode() + b"\ntR.", pickle.dumps({"a": 1}), b"", b"junk"):
        with pytest.raises(UserError, match="pickles are not executed"):
            dataframes.unpickled_texts(evil, tmp_path)
    assert not touched.exists()


def test_older_and_other_forms_of_poses_are_read(tmp_path):
    exports.pictures(tmp_path / "in", ".png")
    body = [n for k in range(18) for n in (5 + 2 * k, 10 + 3 * k, 0.5)]
    exports.save(tmp_path / "in/results.json", {"one.png": {"version": "a", "bodies": [{"joints": body}]}})
    export = convert.read(tmp_path / "in")
    assert export.categories[0].keypoints[1] == "neck" and export.pictures[0].persons[0].num_labelled == 18
    shutil.rmtree(tmp_path / "in")
    exports.video(tmp_path / "in/run.avi", 3)
    exports.save(tmp_path / "in/run_000000000002_keypoints.json", {"people": [{"pose_keypoints": body}]})
    export = convert.read(tmp_path / "in")
    assert export.pictures[0].source.index == 2


# What is refused


def test_missing_pictures_are_refused_or_left_out(tmp_path, capsys):
    source, _ = made("aic", tmp_path / "in")
    (source / "keypoint_train_images/one.jpg").unlink()
    assert run(source, tmp_path / "out") == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and not (tmp_path / "out").exists()
    assert "there is no picture or video 'one' below" in told[1] and "--skip-missing" in told[1]
    run(source, tmp_path / "out", "--skip-missing")
    assert "pictures that were not found are left out (1: one)" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "out")) == 1


def test_an_existing_folder_is_only_replaced_on_request(tmp_path):
    source, _ = made("aic", tmp_path / "in")
    (tmp_path / "out").mkdir()
    run(source, tmp_path / "out", "--copy")
    assert not (tmp_path / "out/images/train/one.jpg").is_symlink()
    assert run(source, tmp_path / "out") == 2
    run(source, tmp_path / "out", "--overwrite", "--split", "spring")
    assert (tmp_path / "out/images/train/one.jpg").is_symlink()  # the file's own name says that it is for training


REFUSED = [
    ("yolo", "train/labels/one.txt", "0 0.5 0.5 0.1 0.1 0.5", "expected 5 [+] 5 [*] 3 = 20 numbers. Received: 6"),
    ("yolo", "train/labels/one.txt", "0 nan 0.5 0.1 0.1", "one.txt:1: expected a number. Received: \"nan\""),
    ("yolo", "train/labels/one.txt", "3 0.5 0.5 0.1 0.1", "class 3 is none of the `names`"),
    ("yolo", "train/labels/one.txt", "0 40 50 10 10" + " 30 40 2" * 5, "must be shares of the picture"),
    ("yolo", "train/labels/one.txt", "0 0.5 0.5 0.1 0.1" + " 0.1 0.2 7" * 5, "visibility of a keypoint must be 0, 1"),
    ("yolo", "data.yaml", "kpt_shape: [5]\n", "`kpt_shape`: expected .number of keypoints, 2 or 3"),
    ("yolo", "data.yaml", "kpt_shape: [5, 3]\nflip_idx: [1, 2, 0, 3, 4]\nnames: [a]\n", "`flip_idx`"),
    ("yolo", "data.yaml", "kpt_shape: [5, 3\n", "is not YAML"),
    ("cvat", "annotations.xml", "<annotations><image", "is not XML"),
    ("cvat", "annotations.xml", "<!DOCTYPE a><annotations></annotations>", "declares entities"),
    ("labelme", "one.json", '{"shapes": [{"label": 3}], "imagePath": "one.jpg"}', "points: expected a list|a list"),
    ("labelme", "one.json", '{"shapes": [], "imagePath": 3}', "imagePath: expected a text. Received: 3"),
    ("deeplabcut", "labeled-data/clip/CollectedData_me.csv", "scorer,me\nbodyparts,a\n", "needs the rows scorer"),
    ("deeplabcut", "labeled-data/clip/CollectedData_me.csv",
     "scorer,m,m\nbodyparts,a,a\ncoords,x,y\nlabeled-data/clip/one.png,1,two\n", "row 4: expected a number"),
    ("mpii", "annot/train.json", '[{"image": "one.jpg", "joints": [[1, 2]]}]', "expected 16 joints. Received: 1"),
    ("lsp", "joints.mat", "MATLAB", "is not a MATLAB file"),
    ("aic", "keypoint_train_annotations.json",
     '[{"image_id": "one", "keypoint_annotations": {"human1": [1, 2, 1]}}]', "expected 3 [*] 14 = 42 numbers"),
    ("aic", "keypoint_train_annotations.json",
     '[{"image_id": "one", "keypoint_annotations": {"human1": [NaN' + ", 1" * 41 + "]}}]", "Received: NaN"),
    ("openpose", "one_keypoints.json", '{"people": [{"pose_keypoints_2d": [1, 2, 1]}]}', "keypoints. Received: 1"),
    ("alphapose", "alphapose-results.json",
     '[{"image_id": "one.png", "keypoints": [1, 2], "score": 1}]', "multiple of 3"),
    ("sleap", "labels.slp", "\x89HDF", "no format was recognized|is damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "content", "message"), REFUSED)
def test_malformed_exports_are_refused_in_one_line(name, file, content, message, tmp_path, capsys):
    source, _ = made(name, tmp_path / "in")
    (source / file).write_text(content, "latin-1")
    with pytest.raises(UserError, match=message):
        convert.to_coco(convert.read(source, FORMAT_OF.get(name, name)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(source, tmp_path / "out", "--from", FORMAT_OF.get(name, name)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


LABELS = (".txt", ".yaml", ".xml", ".json", ".csv", ".h5", ".slp", ".mat")


@pytest.mark.parametrize("name", EXPORTS)
def test_damaged_files_raise_nothing_but_user_errors(name, tmp_path):
    source, _ = made(name, tmp_path / "in")
    random = np.random.default_rng(0)
    for path in [path for path in sorted(source.rglob("*")) if path.suffix in LABELS][:2]:
        data = path.read_bytes()
        for number in range(40):
            if number % 2:
                damaged = data[: random.integers(0, len(data))]
            else:
                damaged = bytearray(data)
                for place in random.integers(0, len(data), random.integers(1, 4)):
                    damaged[place] = random.integers(0, 256)
            path.write_bytes(damaged)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            try:
                convert.to_coco(convert.read(source, FORMAT_OF.get(name, name)), tmp_path / "out")
            except UserError as error:
                assert "\n" not in str(error)
                assert not (tmp_path / "out").exists()
        path.write_bytes(data)


# The way back


def test_a_folder_written_for_yolo_reads_back_the_same(tmp_path, capsys):
    source, found = made("yolo", tmp_path / "in")
    run(source, tmp_path / "coco")
    run(tmp_path / "coco", tmp_path / "yolo", "--to", "yolo")
    run(tmp_path / "yolo", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back/annotations").iterdir()) == [
        "person_keypoints_train.json",
        "person_keypoints_val.json",
    ]
    for path in sorted((tmp_path / "coco/annotations").iterdir()):
        before, after = (
            json.loads((tmp_path / one / "annotations" / path.name).read_text()) for one in ("coco", "back")
        )
        assert before["images"] == after["images"] and before["categories"] == after["categories"]
        for one, other in zip(before["annotations"], after["annotations"], strict=True):
            np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=2e-5)
            np.testing.assert_allclose(one["bbox"], other["bbox"], atol=2e-5)


def test_what_yolo_has_no_place_for_is_counted(tmp_path, capsys):
    source, found = made("roboflow", tmp_path / "in")
    path = source / "train/_annotations.coco.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["keypoints"][:3] = [-3, 5, 2]
    exports.save(path, content)
    run(source, tmp_path / "coco")
    capsys.readouterr()
    run(tmp_path / "coco", tmp_path / "yolo", "--to", "yolo")
    told = capsys.readouterr()
    assert told.out.strip() == str(tmp_path / "yolo/data.yaml")
    assert "crowds and persons without a box have no place in this format (1: one.jpg)" in told.err
    assert "labelled keypoints outside of their picture become unlabelled (1: one.jpg)" in told.err
    lines = (tmp_path / "yolo/labels/train/one.txt").read_text().splitlines()
    assert len(lines) == 1 and lines[0].split()[5:8] == ["0", "0", "0"]
    with pytest.raises(UserError, match="has no annotations"):
        convert.to_yolo(source, tmp_path / "other")


# Poses to score


def test_poses_are_scored_against_the_annotations_of_their_images(tmp_path, capsys):
    found = exports.people(17, (2,))
    exports.pictures(tmp_path / "poses")
    truth = exports.coco_content(found, COCO17.keypoints, ("val/one.png", "val/two.png"))
    exports.save(tmp_path / "truth.json", truth)
    places = [layouts.BODY25.index(name) for name in COCO17.keypoints]
    people = np.zeros((3, 25, 3))
    people[:, places] = np.array(found) * (1, 1, 0.25)
    for name, own in (("one", people[:2]), ("two", people[2:]), ("three", people[2:])):
        rows = [{"pose_keypoints_2d": one.ravel().tolist()} for one in own]
        exports.picture(tmp_path / f"poses/{name}.jpg")
        exports.save(tmp_path / f"poses/{name}_keypoints.json", {"people": rows})
    to = ("--to", "results", "--annotations", tmp_path / "truth.json")
    assert run(tmp_path / "poses", tmp_path / "results.json", *to) == 0
    assert "poses in images without annotations are left out (1: three.jpg)" in capsys.readouterr().err
    scored = kpzoo.score(tmp_path / "truth.json", tmp_path / "results.json")
    assert scored.values["AP"] == 1.0
    assert run(tmp_path / "poses", tmp_path / "results.json", "--to", "results") == 2
    assert "--to results needs the annotations of the images" in capsys.readouterr().err


def test_every_format_has_a_reader_and_an_export_of_the_tests():
    used = {FORMAT_OF.get(name, name) for name in EXPORTS} | set(EXPORTS)
    assert formats.FORMATS.keys() <= used
    assert NAMES[0] == "nose"
