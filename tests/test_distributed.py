"""Many pictures: chunks, Parquet parts, going on, an object store with faults, Ray."""

import functools
import json
import sys
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from store_server import store_server

import kpzoo
from kpzoo import cli, images, stores
from kpzoo.data import parts
from kpzoo.distributed import chunks, run
from kpzoo.distributed.worker import Worker
from kpzoo.errors import UserError
from kpzoo.heatmaps import Confidence
from kpzoo.poses import Poses
from kpzoo.skeletons import COCO17

OPTIONS = dict(detector="whole", part_size=4, flip=False)


@functools.cache
def tiny():
    return kpzoo.build("cpn_tiny", image_hw=(64, 64))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Nine pictures, in a subfolder too, and one that cannot be read."""
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 255, (60 + number, 80, 3), np.uint8)
        images.write_image(tmp_path / "photos" / ("sub" if number % 2 else "") / f"{number}.jpg", pixels)
    (tmp_path / "photos/broken.jpg").write_bytes(b"<html>")
    (tmp_path / "photos/notes.csv").write_text("no picture", encoding="utf-8")
    return tmp_path / "photos"


def test_chunks_are_the_same_each_time_and_change_with_a_file(photos):
    first, again = (list(chunks.chunks(str(photos), 4)) for _ in range(2))
    assert first == again and [len(chunk.paths) for chunk in first] == [4, 4, 2]
    assert first[0].names == ["0.jpg", "2.jpg", "4.jpg", "6.jpg"]
    (photos / "8.jpg").write_bytes(b"other")
    changed = [chunk.digest for chunk in chunks.chunks(str(photos), 4)]
    assert [a.digest == b for a, b in zip(first, changed, strict=True)] == [True, False, True]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jpg", ["0.jpg", "2.jpg", "4.jpg", "6.jpg", "8.jpg", "broken.jpg"]),
        ("**/[13].jpg", ["sub/1.jpg", "sub/3.jpg"]),
        ("sub/?.jpg", ["1.jpg", "3.jpg", "5.jpg", "7.jpg"]),
    ],
)
def test_patterns_select_pictures(photos, pattern, names):
    assert [name for _, name, _ in chunks.pictures(f"{photos}/{pattern}")] == names


@pytest.mark.parametrize("source", ["missing", "photos/notes.csv", "empty", "list.txt"])
def test_a_source_without_pictures_is_told(photos, source):
    (photos.parent / "empty").mkdir()
    with pytest.raises(UserError, match="no folder|neither a folder|No images|no list"):
        list(chunks.chunks(str(photos.parent / source), 4))


def test_rows_are_those_of_a_predictor_and_bad_pictures_are_rows(photos, tmp_path):
    summary = kpzoo.distributed.predict(photos, tmp_path / "out", model=tiny(), coco_json=True, **OPTIONS)
    assert (summary.num_pictures, summary.num_poses, summary.num_problems, summary.num_parts) == (10, 9, 1, 3)
    rows = list(kpzoo.distributed.read_rows(tmp_path / "out"))
    predictor = kpzoo.Predictor(tiny(), detector="whole", flip=False)
    assert len({row["file_name"] for row in rows}) == 10
    for row in rows:
        if row["problem"]:
            assert row["file_name"] == "broken.jpg" and "web page" in row["problem"] and row["poses"] == []
        else:
            [pose], expected = row["poses"], predictor(photos / row["file_name"])
            found = np.reshape(pose["keypoints"], (17, 3))
            assert np.abs(found[:, :2] - expected.keypoints_xy[0]).max() < 0.01
    results = json.loads((tmp_path / "out/results.json").read_text("utf-8"))
    assert [one["file_name"] for one in results] == [row["file_name"] for row in rows if not row["problem"]]


def test_parts_keep_covariances_of_models_that_have_them(photos, tmp_path):
    model = kpzoo.build("cpn_lite_tiny", image_hw=(64, 64))
    model.preset = replace(model.preset, confidence=Confidence(1.3, (1.5, 1.0, 0.5)))
    kpzoo.distributed.predict(photos, tmp_path / "out", model=lambda: model, coco_json=True, **OPTIONS)
    predictor = kpzoo.Predictor(model, detector="whole", flip=False)
    results = json.loads((tmp_path / "out/results.json").read_text("utf-8"))
    rows = [row for row in kpzoo.distributed.read_rows(tmp_path / "out") if not row["problem"]]
    assert len(rows) == len(results) == 9
    for row, result in zip(rows, results, strict=True):
        found, expected = Poses.from_coco(row["poses"], COCO17), predictor(photos / row["file_name"])
        np.testing.assert_allclose(found.covariance_xy, expected.covariance_xy, rtol=1e-3)
        assert result["covariance_xy"] == row["poses"][0]["covariance_xy"]


def test_parts_say_which_covariances_are_unknown(tmp_path):
    pose = {"keypoints": [1.0, 2.0, 0.5] * 17, "score": 0.5, "instance": 0, "box_image_xywh": [0.0, 1.0, 2.0, 3.0]}
    poses = [{**pose, "covariance_xy": [4.0, 1.0, 9.0] * 17}, {**pose, "covariance_xy": None}, pose]
    picture = {"file_name": "a.jpg", "problem": None, "height": 4, "width": 5}
    path = str(tmp_path / parts.part_name(0))
    parts.write_part(path, [{**picture, "poses": poses}, {**picture, "poses": [pose]}], {})
    crowd, one = parts.read_rows(path)
    found = Poses.from_coco(crowd["poses"], COCO17)
    assert found.covariance_xy[0, 3].tolist() == [[4, 1], [1, 9]] and np.isnan(found.covariance_xy[1:]).all()
    assert one == {**picture, "poses": [pose]} and Poses.from_coco(one["poses"], COCO17).covariance_xy is None
    assert list(parts.results_of([crowd]))[1:] == 2 * [{"file_name": "a.jpg", "category_id": 1, **pose}]


def test_a_stopped_run_goes_on_and_changed_or_damaged_parts_are_written_again(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    count = []

    def stops(self, chunk):
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(chunk.number)
        return call(self, chunk)

    call = Worker.__call__
    monkeypatch.setattr(Worker, "__call__", stops)
    with pytest.raises(KeyboardInterrupt):
        kpzoo.distributed.predict(photos, out, model=tiny(), **OPTIONS)
    monkeypatch.setattr(Worker, "__call__", call)
    assert [Path(path).name for path in parts.paths(out)] == ["part-00000000.parquet", "part-00000001.parquet"]
    summary = kpzoo.distributed.predict(photos, out, model=tiny(), resume=True, **OPTIONS)
    assert (summary.num_pictures, summary.num_skipped, summary.num_poses) == (2, 8, 9)
    Path(parts.paths(out)[0]).write_bytes(b"damaged")
    (photos / "sub/7.jpg").unlink()
    (photos / "sub/5.jpg").unlink()
    (photos / "sub/3.jpg").unlink()
    summary = kpzoo.distributed.predict(photos, out, model=tiny(), **OPTIONS)
    assert (summary.num_pictures, summary.num_poses, summary.num_parts) == (7, 6, 2)
    assert len(list(parts.read_rows(out))) == 7


def test_other_settings_and_foreign_folders_are_refused(photos, tmp_path):
    kpzoo.distributed.predict(photos, tmp_path / "out", model=tiny(), **OPTIONS)
    with pytest.raises(UserError, match="other settings .flip: False before, True now"):
        kpzoo.distributed.predict(photos, tmp_path / "out", model=tiny(), **{**OPTIONS, "flip": True})
    summary = kpzoo.distributed.predict(
        photos, tmp_path / "out", model=tiny(), overwrite=True, **{**OPTIONS, "flip": True}
    )
    assert summary.num_skipped == 0
    with pytest.raises(UserError, match="without an earlier run"):
        kpzoo.distributed.predict(photos, photos, model=tiny(), **OPTIONS)
    with pytest.raises(UserError, match="no earlier run"):
        kpzoo.distributed.predict(photos, tmp_path / "new", model=tiny(), resume=True, **OPTIONS)


def test_evaluation_reads_parts(tmp_path):
    kpzoo.scenes.write_drawn(tmp_path / "data", 4, split="val")
    annotations = tmp_path / "data/annotations/person_keypoints_val.json"
    kpzoo.distributed.predict(tmp_path / "data/images/val", tmp_path / "out", model=tiny(), coco_json=True, **OPTIONS)
    metrics = [kpzoo.score(annotations, tmp_path / "out" / name).values for name in ("", "results.json")]
    assert metrics[0] == metrics[1]


def test_s3_with_throttling_cut_connections_and_wrong_keys(photos, tmp_path, monkeypatch):
    with store_server(monkeypatch) as (client, state):
        for path in sorted(photos.rglob("*.jpg")):
            client.upload_file(str(path), "bucket", f"photos/{path.relative_to(photos).as_posix()}")
        state["faults"] = ["slow", None, "slow", "cut", None, "cut", "slow", "slow", "cut"]
        target = "s3://bucket/poses"
        summary = kpzoo.distributed.predict("s3://bucket/photos", target, model=tiny(), coco_json=True, **OPTIONS)
        assert state["faults"] == []
        assert (summary.num_pictures, summary.num_problems) == (10, 1)
        kpzoo.distributed.predict(photos, tmp_path / "local", model=tiny(), **OPTIONS)
        rows, local = (
            sorted(parts.read_rows(out), key=lambda row: row["file_name"]) for out in (target, tmp_path / "local")
        )
        assert rows == local
        assert len(json.loads(stores.read(f"{target}/results.json"))) == 9
        again = kpzoo.distributed.predict("s3://bucket/photos", target, model=tiny(), **OPTIONS)
        assert again.num_skipped == 10
        stores.upload(photos, "s3://bucket/copy")
        assert stores.read("s3://bucket/copy/sub/1.jpg") == (photos / "sub/1.jpg").read_bytes()
        assert stores.read("s3://bucket/copy/notes.csv") == b"no picture"
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        fsspec.filesystem("s3").clear_instance_cache()
        for path in ("s3://bucket/photos", "s3://bucket/photos/0.jpg"):
            with pytest.raises(stores.Unreachable, match=f"{path}.*Check the credentials"):
                kpzoo.distributed.predict(path, tmp_path / "new", model=tiny(), **OPTIONS)


@pytest.fixture
def no_kept_ray():
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def test_ray_gives_the_rows_of_one_process(photos, tmp_path, no_kept_ray):
    kpzoo.distributed.predict(photos, tmp_path / "one", model=tiny(), **OPTIONS)
    kpzoo.distributed.predict(photos, tmp_path / "ray", model=tiny(), ray="local", num_cpus=0.5, **OPTIONS)
    assert list(parts.read_rows(tmp_path / "one")) == list(parts.read_rows(tmp_path / "ray"))


def test_ids_are_numbers_of_files_or_counted():
    assert run.image_ids(["a/0007.jpg", "b/12.png"]) == [7, 12]
    assert run.image_ids(["a/7.jpg", "b/7.jpg"]) == [1, 2]


def test_a_run_is_uploaded_to_a_store_only(tmp_path, capsys):
    arguments = ["train", "--model", "cpn_tiny", "--data", "missing", "--out", str(tmp_path), "--upload", "runs"]
    assert cli.main(arguments) == 2
    assert "--upload must be a folder in a store" in capsys.readouterr().err
