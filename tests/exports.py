"""Small exports of labelling tools and other data sets, made after their published formats: the tests' inputs.

Each function of `EXPORTS` writes one into a folder, with two persons in the picture "one" and one in "two", and returns
the (K, 3) keypoints of the three: x, y, and 0 for not labelled, 1 for hidden, 2 for visible.
"""

import base64
import csv
import json
from pathlib import Path

import cv2
import numpy as np

from kpzoo import images
from kpzoo.convert import layouts
from kpzoo.skeletons import AIC14, COCO17, CROWDPOSE14, MPII16, POSETRACK17

HEIGHT, WIDTH = 96, 128
NAMES = ("nose", "left_hand", "right_hand", "left_foot", "right_foot")


def picture(path: Path, seed: int = 0, size_hw=(HEIGHT, WIDTH)) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    return images.write_image(path, noise).read_bytes()


def pictures(folder: Path, suffix: str = ".jpg", names=("one", "two")) -> None:
    for seed, name in enumerate(names):
        picture(folder / f"{name}{suffix}", seed)


def people(count: int, levels=(0, 1, 2)) -> list[np.ndarray]:
    """Three persons of `count` keypoints in the left half, the right half and the left half of the picture."""
    random, out = np.random.default_rng(count), []
    for left in (4, 68, 4):
        points = np.c_[random.integers(left, left + 52, count), random.integers(6, 90, count)].astype(float) + 0.25
        flags = np.resize(levels, count)
        flags[:2] = max(levels)
        out.append(np.c_[points * (flags > 0)[:, None], flags])
    return out


def box(keypoints: np.ndarray) -> list[float]:
    """A box around the labelled keypoints, 2 pixels larger: x, y, width, height."""
    points = keypoints[keypoints[:, 2] > 0, :2]
    low, high = points.min(axis=0) - 2, points.max(axis=0) + 2
    return [*low.tolist(), *(high - low).tolist()]


def corners(keypoints: np.ndarray) -> list[float]:
    x, y, width, height = box(keypoints)
    return [x, y, x + width, y + height]


def save(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


def yolo(folder: Path) -> list[np.ndarray]:
    found = people(5)
    for split, name, own in (("train", "one", found[:2]), ("valid", "two", found[2:])):
        picture(folder / split / "images" / f"{name}.jpg")
        lines = []
        for points in own:
            x, y, width, height = np.array(box(points)) / (WIDTH, HEIGHT, WIDTH, HEIGHT)
            shares = points / (WIDTH, HEIGHT, 1)
            words = [0, x + width / 2, y + height / 2, width, height, *shares.ravel().tolist()]
            lines.append(" ".join(f"{word:.8g}" for word in words))
        save(folder / split / "labels" / f"{name}.txt", "\n".join(lines))
    text = "train: C:\\data\\train\\images\nval: ../valid/images\nkpt_shape: [5, 3]\nflip_idx: [0, 2, 1, 4, 3]\n"
    save(folder / "data.yaml", text + "names: [runner]\n")
    save(folder / "README.dataset.txt", "not a label")
    return found


def cvat(folder: Path) -> list[np.ndarray]:
    found, rows = people(5, (1, 2)), []
    for name, own in (("one", found[:2]), ("two", found[2:])):
        picture(folder / "images" / f"{name}.jpg")
        rows.append(f'<image id="7" name="{name}.jpg" width="{WIDTH}" height="{HEIGHT}">')
        for points in own:
            rows.append('<skeleton label="person" occluded="0">')
            for k in (3, 1, 0, 4, 2):  # not in the order of the labels
                x, y, v = points[k]
                rows.append(f'<points label="{NAMES[k]}" outside="0" occluded="{int(v == 1)}" points="{x},{y}"/>')
            a, b, c, d = corners(points)
            rows.append(f'</skeleton><box label="someone" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}"/>')
        rows.append("</image>")
    sub = "".join(f"<label><name>{name}</name><parent>person</parent></label>" for name in NAMES)
    labels = f"<labels><label><name>person</name><type>skeleton</type></label>{sub}</labels>"
    meta = f"<version>1.1</version><meta><task>{labels}</task></meta>"
    save(folder / "annotations.xml", f"<annotations>{meta}{''.join(rows)}</annotations>")
    return found


def video(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for number in range(count):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * number, np.uint8))
    writer.release()


def cvat_video(folder: Path) -> list[np.ndarray]:
    found = people(5, (1, 2))
    video(folder / "clip.avi", 6)
    tracks = []
    for number, (points, frame) in enumerate(zip(found, (1, 1, 3), strict=True)):
        rows = [
            f'<points label="{NAMES[k]}" outside="0" occluded="{int(v == 1)}" points="{x},{y}"/>'
            for k, (x, y, v) in enumerate(points)
        ]
        shape = f'<skeleton frame="{frame}" keyframe="1">{"".join(rows)}</skeleton>'
        gone = f'<skeleton frame="{frame + 1}" keyframe="1" outside="1">{"".join(rows)}</skeleton>'
        tracks.append(f'<track id="{number}" label="person">{shape}{gone}</track>')
    size = f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size>"
    meta = f"<meta><task>{size}<source>clip.avi</source></task></meta>"
    save(folder / "annotations.xml", f"<annotations><version>1.1</version>{meta}{''.join(tracks)}</annotations>")
    return found


def _percent(x: float, y: float) -> dict:
    return {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 0.4}


def labelstudio(folder: Path) -> list[np.ndarray]:
    found, tasks = people(5, (2,)), []
    whole = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    for name, own in (("one", found[:2]), ("two", found[2:])):
        picture(folder / "upload" / f"{name}.jpg")
        regions = []
        for number, points in enumerate(own):
            parent = {"parentID": f"box{number}"} if name == "one" else {}
            for k, (x, y, _) in enumerate(points):
                value = {**_percent(x, y), "keypointlabels": [NAMES[k]]}
                regions.append({"id": f"{number}_{k}", "type": "keypointlabels", "value": value, **parent, **whole})
                ends = {"type": "relation", "from_id": f"{number}_{k}", "to_id": f"box{number}"}
                regions += [] if parent else [ends]
            x, y, width, height = box(points)
            value = {**_percent(x, y), "rotation": 0, "rectanglelabels": ["person"]}
            value |= {"width": 100 * width / WIDTH, "height": 100 * height / HEIGHT}
            regions.append({"id": f"box{number}", "type": "rectanglelabels", "value": value, **whole})
        data = {"image": f"/data/upload/3/{name}.jpg"}
        tasks.append({"id": 1, "data": data, "annotations": [{"was_cancelled": False, "result": regions}]})
    save(folder / "export.json", tasks)
    return found


def labelstudio_min(folder: Path) -> list[np.ndarray]:
    found, tasks = people(5, (2,)), []
    whole = {"original_width": WIDTH, "original_height": HEIGHT}
    for name, own in (("one", found[:2]), ("two", found[2:])):
        picture(folder / f"{name}.png")
        points = [
            {**_percent(x, y), "keypointlabels": [NAMES[k]], **whole}
            for person in own
            for k, (x, y, _) in enumerate(person)
        ]
        boxes = [
            {**_percent(*box(person)[:2]), "rectanglelabels": ["person"], **whole}
            | {"width": 100 * box(person)[2] / WIDTH, "height": 100 * box(person)[3] / HEIGHT}
            for person in own
        ]
        tasks.append({"img": f"/data/local-files/?d=files/{name}.png", "id": 3, "kp": points, "bbox": boxes})
    save(folder / "min.json", tasks)
    return found


def labelme(folder: Path) -> list[np.ndarray]:
    found = people(5, (1, 2))
    for name, own, grouped in (("one", found[:2], True), ("two", found[2:], False)):
        picture(folder / f"{name}.jpg")
        shapes = []
        for number, points in enumerate(own):
            group = number if grouped else None
            a, b, c, d = corners(points)
            shape = {"label": "person", "points": [[c, d], [a, b]], "shape_type": "rectangle", "group_id": group}
            shapes.append(shape)
            for k, (x, y, v) in enumerate(points):
                shape = {"label": NAMES[k], "points": [[x, y]], "group_id": group, "shape_type": "point"}
                shapes.append({**shape, "flags": {"occluded": bool(v == 1)}})
        content = {"version": "5.4", "shapes": shapes, "imagePath": f"..\\pics\\{name}.jpg", "imageData": None}
        save(folder / f"{name}.json", {**content, "imageHeight": HEIGHT, "imageWidth": WIDTH})
    return found


def deeplabcut(folder: Path) -> list[np.ndarray]:
    found = people(5, (0, 2))
    pictures(folder / "labeled-data/clip", ".png")
    path = folder / "labeled-data/clip/CollectedData_me.csv"
    pairs = [(one, name, axis) for one in ("a", "b") for name in NAMES for axis in "xy"]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        for head, cells in (
            ("scorer", ["me"] * len(pairs)),
            ("individuals", [one for one, _, _ in pairs]),
            ("bodyparts", [name for _, name, _ in pairs]),
            ("coords", [axis for _, _, axis in pairs]),
        ):
            table.writerow([head, "", "", *cells])
        cells = [[v and x, v and y] if v else ["", ""] for person in found for x, y, v in person]
        flat = [cell for pair in cells for cell in pair]
        table.writerow(["labeled-data", "clip", "one.png", *flat[:20]])
        table.writerow(["labeled-data", "clip", "two.png", *flat[20:]])  # ends before the second individual
    save(folder / "config.yaml", "Task: run\nskeleton:\n- [nose, left_hand]\n- [nose, nobody]\n")
    return found


def deeplabcut_h5(folder: Path) -> list[np.ndarray]:
    """The "fixed" layout of pandas, of one individual: the labels of the columns are levels and codes."""
    import h5py

    found = people(5, (0, 2))
    pictures(folder / "labeled-data/clip", ".png", ("one", "two", "three"))
    numbers = np.array([[np.where(v > 0, one, np.nan) for x, y, v in person for one in (x, y)] for person in found])
    with h5py.File(folder / "labeled-data/clip/CollectedData_me.h5", "w") as file:
        group = file.create_group("df_with_missing")
        group.attrs["pandas_type"] = np.bytes_("frame")
        for axis in ("axis0", "block0_items"):
            levels = ([b"me"], [name.encode() for name in NAMES], [b"x", b"y"])
            codes = (np.zeros(10, np.int8), np.repeat(np.arange(5, dtype=np.int8), 2), np.tile([0, 1], 5))
            for number, (level, code) in enumerate(zip(levels, codes, strict=True)):
                group[f"{axis}_level{number}"], group[f"{axis}_label{number}"] = np.array(level), code
        group["axis1"] = np.array([f"labeled-data/clip/{name}.png".encode() for name in ("one", "two", "three")])
        group["block0_values"] = numbers
    return found


def sleap(folder: Path) -> list[np.ndarray]:
    import h5py

    found = people(5, (0, 1, 2))
    video(folder / "clip.avi", 6)
    skeleton = {
        "directed": True,
        "graph": {"name": "runner"},
        "links": [
            {"source": 0, "target": 1, "type": {"py/reduce": [{"py/type": "EdgeType"}, {"py/tuple": [1]}]}},
            {"source": 0, "target": 2, "type": {"py/id": 1}},
            {"source": 1, "target": 2, "type": {"py/reduce": [{"py/type": "EdgeType"}, {"py/tuple": [2]}]}},
            {"source": 3, "target": 4, "type": {"py/id": 2}},
        ],
        "nodes": [{"id": k} for k in range(5)],
    }
    metadata = {"version": "2.0.0", "nodes": [{"name": name} for name in NAMES], "skeletons": [skeleton]}
    points = [(x if v else np.nan, y if v else np.nan, v == 2, True) for one in found for x, y, v in one]
    kinds = "<u8,<u4,<u8,<u8,<u8", "<i8,u1,<u8,<u4,<i4,<i8,<f4,<u8,<u8,<f4", "<f8,<f8,?,?"
    names = (
        "frame_id video frame_idx instance_id_start instance_id_end",
        "instance_id instance_type frame_id skeleton track from_predicted score point_id_start point_id_end "
        "tracking_score",
        "x y visible complete",
    )
    types = [
        np.dtype(list(zip(name.split(), kind.split(","), strict=True))) for name, kind in zip(names, kinds, strict=True)
    ]
    instances = [(k, 0, k // 2, 0, -1, -1, np.nan, 5 * k, 5 * k + 5, np.nan) for k in range(3)]
    with h5py.File(folder / "labels.slp", "w") as file:
        group = file.create_group("metadata")
        group.attrs["format_id"], group.attrs["json"] = 1.2, np.bytes_(json.dumps(metadata))
        file["frames"] = np.array([(0, 0, 4, 0, 2), (1, 0, 2, 2, 3)], types[0])
        file["instances"] = np.array(instances, types[1])
        file["points"] = np.array(points, types[2])
        file["pred_points"] = np.zeros(0, np.dtype([*types[2].descr, ("score", "<f8")]))
        backend = {"backend": {"filename": "C:\\lab\\clip.avi", "grayscale": True}}
        file["videos_json"] = np.array([json.dumps(backend).encode()])
        file["tracks_json"] = np.zeros(0)
    return found


def sleap_analysis(folder: Path) -> list[np.ndarray]:
    import h5py

    found = people(5, (0, 2))
    video(folder / "clip.avi", 4)
    tracks = np.full((2, 2, 5, 4), np.nan)  # track, xy, node, frame
    for points, track, frame in zip(found, (0, 1, 0), (1, 1, 3), strict=True):
        tracks[track, :, :, frame] = np.where(points[:, 2] > 0, points[:, :2].T, np.nan)
    with h5py.File(folder / "clip.analysis.h5", "w") as file:
        file["tracks"], file["node_names"] = tracks, np.array([name.encode() for name in NAMES])
        file["track_occupancy"] = np.ones((4, 2), np.uint8)
        file["edge_names"] = np.array([[b"nose", b"left_hand"]])
        file["point_scores"] = np.full((2, 5, 4), np.nan)
        file["video_path"] = "D:/lab/clip.avi"
    return found


def mpii(folder: Path) -> list[np.ndarray]:
    found = people(MPII16.num_keypoints, (0, 2))
    pictures(folder / "images")
    rows = []
    for name, points in zip(("one", "one", "two"), found, strict=True):
        joints = np.where(points[:, 2:] > 0, points[:, :2], -1)
        row = {"image": f"{name}.jpg", "joints": joints.tolist(), "joints_vis": (points[:, 2] > 0).astype(int).tolist()}
        rows.append({**row, "center": [50.0, 50.0], "scale": 0.4})
    save(folder / "annot/train.json", rows)
    return found


def mpii_mat(folder: Path) -> list[np.ndarray]:
    import scipy.io

    found = people(MPII16.num_keypoints, (0, 1, 2))
    pictures(folder / "images")

    def structures(rows: list[dict]) -> np.ndarray:
        out = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
        for index, row in enumerate(rows):
            out[0, index] = tuple(row.values())
        return out

    def person(points) -> dict:
        seen = {1: 0.0, 2: "1"}
        rows = [dict(x=x, y=y, id=float(k), is_visible=seen[v]) for k, (x, y, v) in enumerate(points.tolist()) if v]
        return {"x1": 3.0, "annopoints": structures([{"point": structures(rows)}]), "scale": 1.2}

    annotated = [("one", found[:2]), ("two", found[2:])]
    pictures_of = [
        {"image": structures([{"name": f"{name}.jpg"}]), "annorect": structures([person(points) for points in own])}
        for name, own in annotated
    ]
    pictures_of.append({"image": structures([{"name": "test.jpg"}]), "annorect": np.empty((0, 0))})
    release = structures([{"annolist": structures(pictures_of), "img_train": np.array([[1, 1, 0]])}])
    scipy.io.savemat(folder / "mpii.mat", {"RELEASE": release})
    return found


def lsp(folder: Path) -> list[np.ndarray]:
    import scipy.io

    found = people(14, (1, 2))
    pictures(folder / "images", names=("im0001", "im0002", "im0003"))
    joints = np.stack([np.c_[one[:, :2], one[:, 2] == 1].T for one in found], axis=2)
    scipy.io.savemat(folder / "joints.mat", {"joints": joints})
    return found


def lsp_extended(folder: Path) -> list[np.ndarray]:
    import scipy.io

    found = people(14, (0, 2))
    pictures(folder / "images", names=("im00001", "im00002", "im00003"))
    scipy.io.savemat(folder / "joints.mat", {"joints": np.stack([np.minimum(one, [999, 999, 1]) for one in found], 2)})
    return found


def aic(folder: Path) -> list[np.ndarray]:
    found, code = people(AIC14.num_keypoints), {0: 3, 1: 2, 2: 1}
    pictures(folder / "keypoint_train_images")
    rows = []
    for name, own in (("one", found[:2]), ("two", found[2:])):
        keys = [f"human{number}" for number in range(len(own), 0, -1)]
        points = {
            key: [n for x, y, v in one.tolist() for n in (x, y, code[v])] for key, one in zip(keys, own, strict=True)
        }
        boxes = {key: corners(one) for key, one in zip(keys, own, strict=True)}
        rows.append({"image_id": name, "keypoint_annotations": points, "human_annotations": boxes})
    save(folder / "keypoint_train_annotations.json", rows)
    return found


def ochuman(folder: Path) -> list[np.ndarray]:
    found, code = people(19), {0: 0, 1: 3, 2: 1}
    pictures(folder / "images")
    rows = []
    for number, (name, own) in enumerate((("one", found[:2]), ("two", found[2:]))):
        persons = [
            {"bbox": corners(one), "keypoints": [n for x, y, v in one.tolist() for n in (x, y, code[v])], "segms": None}
            for one in own
        ]
        row = {"image_id": str(number), "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT}
        rows.append({**row, "annotations": persons})
    save(folder / "ochuman.json", {"root": "images", "images": rows})
    return found


def coco_content(found, names, file_names=("one.jpg", "two.jpg"), **category) -> dict:
    shape = {"width": WIDTH, "height": HEIGHT}
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": 1,
            "bbox": box(points),
            "keypoints": points.ravel().tolist(),
            "iscrowd": 0,
        }
        for number, (points, image_id) in enumerate(zip(found, (4, 4, 9), strict=True))
    ]
    return {
        "images": [{"id": one, "file_name": name, **shape} for one, name in zip((4, 9), file_names, strict=True)],
        "categories": [{"id": 0, "name": "objects"}, {"id": 1, "name": "person", "keypoints": list(names), **category}],
        "annotations": annotations,
    }


def roboflow(folder: Path) -> list[np.ndarray]:
    found = people(5)
    pictures(folder / "train")
    save(folder / "train/_annotations.coco.json", coco_content(found, NAMES, skeleton=[[1, 2], [3, 9]]))
    return found


def crowdpose(folder: Path) -> list[np.ndarray]:
    found = people(CROWDPOSE14.num_keypoints)
    pictures(folder / "images")
    content = coco_content(found, CROWDPOSE14.keypoints)
    for image in content["images"]:
        image["crowdIndex"] = 0.4
    save(folder / "json/crowdpose_val.json", content)
    return found


def posetrack18(folder: Path) -> list[np.ndarray]:
    found = people(POSETRACK17.num_keypoints, (0, 2))
    files = [f"images/val/00{number}_mpii/000000.jpg" for number in (1, 2)]
    for name in files:
        picture(folder / name)
    content = coco_content([np.minimum(one, [999, 999, 1]) for one in found], POSETRACK17.keypoints, files)
    for image in content["images"]:
        image |= {"is_labeled": True, "vid_id": "001"}
    content["images"].append({**content["images"][0], "id": 77, "is_labeled": False})
    for number, row in enumerate(content["annotations"]):
        row |= {"track_id": number, "iscrowd": False, "scores": []}
    save(folder / "annotations/val/001_mpii.json", content)
    return found


def halpe(folder: Path) -> list[np.ndarray]:
    found = people(136)
    pictures(folder / "val2017")
    content = coco_content(found, COCO17.keypoints)  # the file names 17 of the keypoints only
    save(folder / "halpe_val_v1.json", content)
    return found


def openpose(folder: Path) -> list[np.ndarray]:
    found = people(len(layouts.BODY25), (0, 2))
    pictures(folder, ".png")
    for name, own in (("one", found[:2]), ("two", found[2:])):
        rows = [
            {
                "person_id": [-1],
                "pose_keypoints_2d": [n for x, y, v in one.tolist() for n in (x, y, 0.5 * (v > 0))],
                "hand_left_keypoints_2d": [1, 2, 0.2, 0, 0, 0],
                "pose_keypoints_3d": [],
            }
            for one in own
        ]
        save(folder / f"{name}_keypoints.json", {"version": 1.3, "people": rows})
    return found


def alphapose(folder: Path) -> list[np.ndarray]:
    found = people(26, (2,))
    pictures(folder / "frames", ".png")
    rows = [
        {"image_id": f"{name}.png", "category_id": 1, "score": 2.5, "box": box(one), "idx": [0.0]}
        | {"keypoints": [n for x, y, v in one.tolist() for n in (x, y, 0.5)]}
        for name, one in zip(("one", "one", "two"), found, strict=True)
    ]
    save(folder / "alphapose-results.json", rows)
    return found


EXPORTS = {
    function.__name__: function
    for function in (
        *(yolo, cvat, cvat_video, labelstudio, labelstudio_min, labelme, deeplabcut, deeplabcut_h5, sleap),
        *(sleap_analysis, mpii, mpii_mat, lsp, lsp_extended, aic, ochuman, roboflow, crowdpose, posetrack18, halpe),
        *(openpose, alphapose),
    )
}


def embedded(path: Path) -> str:
    """The base64 text of a picture, as LabelMe stores it."""
    return base64.b64encode(path.read_bytes()).decode()
