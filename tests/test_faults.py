"""Kills, signals, missing rights: nothing is lost but the step in flight, nothing half-written has its final name."""

import json
import os
import runpy
import signal
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import full_disk

import kpzoo
from kpzoo import callbacks, cli, images, outputs, skeletons, training
from kpzoo.data import json_file
from kpzoo.errors import UserError
from kpzoo.export.files import written_whole
from kpzoo.poses import Poses

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model():
    return kpzoo.build("cpn_tiny", image_hw=(64, 64))


def export_file(path, model):
    with written_whole(path, overwrite=True) as part:
        part.write_bytes(b"new")


def export_folder(path, model):
    with written_whole(path, overwrite=True) as part:
        part.mkdir()
        (part / "inside").write_bytes(b"new")


def results(path, model):
    with outputs.replaced(path) as file:
        file.write("new")


def video(path, model):
    file = outputs.VideoFile(path, fps=5)
    for shade in (0, 100, 200):
        file.add(np.full((64, 48, 3), shade, np.uint8))
    file.close()


WRITERS = {  # everything that writes a file under its final name
    "weights.weights.h5": lambda path, model: kpzoo.save_weights(model, path),
    "weights.safetensors": lambda path, model: kpzoo.save_weights(model, path),
    "weights.npz": lambda path, model: kpzoo.save_weights(model, path),
    "annotations.json": lambda path, model: json_file.write_json(path, [1]),
    "picture.png": lambda path, model: images.write_image(path, np.zeros((9, 9, 3), np.uint8)),
    "model.onnx": export_file,
    "savedmodel": export_folder,
    "results.json": results,
    "clip.mp4": video,
    "log.csv": lambda path, model: callbacks.EpochLog(path).on_epoch_end(0, {"loss": 1.0}),
}


def killed(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", WRITERS)
def test_a_kill_before_the_last_step_leaves_what_was_there(name, model, tmp_path, monkeypatch):
    """The kill comes where the finished part would get its name: before it, nothing has the name but the old file."""
    path = tmp_path / name
    if name == "savedmodel":
        path.mkdir()
        (path / "inside").write_text("old")
    else:
        path.write_text("epoch,loss\n" if name == "log.csv" else "old")
    before = snapshot(path)
    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        WRITERS[name](path, model)
    assert snapshot(path) == before


def snapshot(path: Path) -> dict:
    files = path.rglob("*") if path.is_dir() else [path]
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize("name", WRITERS)
def test_parts_lie_beside_their_target_so_that_the_last_step_is_one(name, model, tmp_path, monkeypatch):
    renamed = []

    def record(source, target, real=os.replace):
        renamed.append((Path(source), Path(target)))
        real(source, target)

    monkeypatch.setattr(os, "replace", record)
    WRITERS[name](tmp_path / name, model)
    ((part, target),) = renamed
    assert target == tmp_path / name and part.parent == target.parent
    assert [path.name for path in tmp_path.iterdir()] == [name]


@contextmanager
def without_rights(folder: Path):
    """Takes the right to write into a folder; root, who may everything, is nobody meanwhile."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights of folders are those of POSIX")
@pytest.mark.parametrize("name", [name for name in WRITERS if name != "log.csv"])
def test_a_folder_that_may_not_be_written_is_named(name, model):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders hide what is in them from nobody
        with without_rights(Path(folder)), pytest.raises(UserError, match=f"{folder}.*ermission denied"):
            WRITERS[name](Path(folder) / name, model)
        assert os.listdir(folder) == []


def report(path, size):
    with outputs.replaced(path) as file:
        file.write("x" * size)


def noise(path, size):
    file, rng = outputs.VideoFile(path, fps=5), np.random.default_rng(0)
    for _ in range(size // 10_000):
        file.add(rng.integers(0, 256, (96, 96, 3), np.uint8))
    file.close()


@pytest.mark.parametrize(("write", "name"), [(report, "report.html"), (noise, "clip.mp4")])
def test_a_full_disk_is_told_with_the_file_and_leaves_the_old_one(write, name, tmp_path):
    path = tmp_path / name
    path.write_text("old")
    with full_disk(50_000), pytest.raises(UserError, match=f"Cannot write .*{name}'"):
        write(path, 300_000)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", ["begin", "add", "finish"])
def test_a_full_disk_during_a_run_is_told_with_the_file(fails, tmp_path):
    skeleton, poses = skeletons.get("coco17"), Poses.empty(skeletons.get("coco17"))
    folder = outputs.OutputFolder(tmp_path / "out", skeleton, {})
    folder.add("1.jpg", 1, poses)
    steps = {
        "begin": lambda: outputs.OutputFolder(tmp_path / "other", skeleton, {}),
        "add": lambda: folder.add("2.jpg", 2, poses),
        "finish": folder.finish,
    }
    with full_disk(1), pytest.raises(UserError, match="Cannot write .*/(progress.jsonl|results.json|poses.csv)"):
        steps[fails]()
    folder.close()
    kept = outputs.OutputFolder(tmp_path / "out", skeleton, {})
    kept.finish()
    assert len((tmp_path / "out/progress.jsonl").read_text().splitlines()) >= 2


def test_a_target_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    assert outputs.check_target(tmp_path / "report.html") == tmp_path / "report.html"
    with pytest.raises(UserError, match="it is a folder"):
        outputs.check_target(tmp_path)
    with pytest.raises(UserError, match=f"there is no folder '{tmp_path}/gone'"):
        outputs.check_target(tmp_path / "gone/report.html")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_gets_a_signal_leaves_its_last_checkpoint_and_goes_on(
    number, small_folder, tmp_path, monkeypatch, capsys, hears_ctrl_c
):
    out = tmp_path / "run"
    how = "--image-size 64x64 --val-split= --epochs 2 --batch-size 4".split()
    arguments = ["train", "--model", "cpn_tiny", "--out", str(out), "--data", str(small_folder), *how]
    write = callbacks.Checkpoint.on_epoch_end

    def write_and_stop(self, epoch, logs=None):
        write(self, epoch, logs)
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody takes SIGTERM"))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(callbacks.Checkpoint, "on_epoch_end", write_and_stop)
            assert cli.main(arguments) == 130
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "kpzoo: stopped"
    (checkpoint,) = (out / "checkpoints").iterdir()
    assert checkpoint.name == "step-000000003.weights.h5" and not (out / "model.weights.h5").exists()
    assert training.load_run(out).preset.name == "cpn_tiny"
    assert cli.main(arguments) == 0
    assert [row["epoch"] for row in callbacks.read_log(out / "log.csv")] == ["1", "2"]


def test_a_soak_of_good_and_bad_pictures_answers_every_good_one(tmp_path, capfd):
    soak = runpy.run_path(str(ROOT / "benchmarks/soak.py"))
    assert soak["main"](["--count", "100", "--limit", "1000", "--out", str(tmp_path / "soak.json")]) == 0
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["num_wrong"] == 0 and found["good"] + found["bad"] == 100 and found["bad"] > 10


def test_a_prediction_that_failed_leaves_no_thread_behind(model, tmp_path):
    """A thread that is left is joined whenever the collector comes, in any thread: there it may wait for ever."""
    before, errors = threading.active_count(), []
    for _ in range(3):
        with pytest.raises(UserError) as error:
            kpzoo.predict(model, tmp_path / "gone.jpg", [[0, 0, 9, 9]], flip=False)
        errors.append(error)  # and with it the frames of the prediction
    for _ in range(50):
        if threading.active_count() == before:
            break
        time.sleep(0.1)
    assert threading.active_count() == before and len(errors) == 3
