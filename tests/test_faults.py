"""Kills, signals, missing rights: nothing is lost but the step in flight, nothing half-written has its final name."""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import full_disk

import kpzoo
from kpzoo import cli, files, images, skeletons, training
from kpzoo.data import loading, packing
from kpzoo.data import pack as packs
from kpzoo.errors import UserError
from kpzoo.files import written_whole
from kpzoo.inference import outputs
from kpzoo.poses import Poses
from kpzoo.training import keras_callbacks, run_folder
from kpzoo.video_file import VideoFile

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model():
    return kpzoo.build("cpn_tiny", image_hw=(64, 64))


def export_file(path, model):
    with written_whole(path) as part:
        part.write_bytes(b"new")


def export_folder(path, model):
    with written_whole(path) as part:
        part.mkdir()
        (part / "inside").write_bytes(b"new")


def results(path, model):
    with files.writing(path) as file:
        file.write("new")


def video(path, model):
    file = VideoFile(path, fps=5)
    for shade in (0, 100, 200):
        file.add(np.full((64, 48, 3), shade, np.uint8))
    file.close()


WRITERS = {  # everything that writes a file under its final name
    "weights.weights.h5": lambda path, model: kpzoo.save_weights(model, path),
    "weights.safetensors": lambda path, model: kpzoo.save_weights(model, path),
    "weights.npz": lambda path, model: kpzoo.save_weights(model, path),
    "annotations.json": lambda path, model: files.write_json(path, [1]),
    "picture.png": lambda path, model: images.write_image(path, np.zeros((9, 9, 3), np.uint8)),
    "model.onnx": export_file,
    "savedmodel": export_folder,
    "results.json": results,
    "clip.mp4": video,
    "log.csv": lambda path, model: keras_callbacks.EpochLog(path).on_epoch_end(0, {"loss": 1.0}),
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
    """Removes the write permission of a folder. A process of root changes to the user nobody meanwhile."""
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
    with tempfile.TemporaryDirectory() as folder:  # pytest's folders are not readable for the user nobody
        with without_rights(Path(folder)), pytest.raises(UserError, match=f"{folder}.*ermission denied"):
            WRITERS[name](Path(folder) / name, model)
        assert os.listdir(folder) == []


@pytest.mark.parametrize("name", ["n" * 251 + ".mp4", "ö" * 125 + ".npz", "folder.v1", ".hidden", "model.weights.h5"])
@pytest.mark.parametrize("write", [export_file, export_folder])
def test_any_name_that_a_file_can_have_is_written_and_replaced(name, write, tmp_path):
    for _ in range(2):
        write(tmp_path / name, None)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_an_error_about_another_file_does_not_name_the_one_that_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="source"), written_whole(tmp_path / "target") as part:
        part.write_bytes((tmp_path / "source").read_bytes())
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left_is_removed_under_the_lock_of_a_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / f"{files.PART}1-model").mkdir()
    for name in (f"{files.PART}1-model/inside", f"checkpoints/{files.PART}2-step.weights.h5", "checkpoints/kept"):
        (tmp_path / name).touch()
    with run_folder.held(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "checkpoints", "kept"]


def report(path, size):
    with files.writing(path) as file:
        file.write("x" * size)


def noise(path, size):
    file, rng = VideoFile(path, fps=5), np.random.default_rng(0)
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
    assert files.check_target(tmp_path / "report.html") == tmp_path / "report.html"
    with pytest.raises(UserError, match="it is a folder"):
        files.check_target(tmp_path)
    with pytest.raises(UserError, match=f"there is no folder '{tmp_path}/gone'"):
        files.check_target(tmp_path / "gone/report.html")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_gets_a_signal_leaves_its_last_checkpoint_and_goes_on(
    number, small_folder, tmp_path, monkeypatch, capsys, hears_ctrl_c
):
    out = tmp_path / "run"
    how = "--image-size 64x64 --val-split= --epochs 2 --batch-size 4".split()
    arguments = ["train", "--model", "cpn_tiny", "--out", str(out), "--data", str(small_folder), *how]
    write = keras_callbacks.Checkpoint.on_epoch_end

    def write_and_stop(self, epoch, logs=None):
        write(self, epoch, logs)
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("no handler for SIGTERM"))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(keras_callbacks.Checkpoint, "on_epoch_end", write_and_stop)
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
    assert [row["epoch"] for row in keras_callbacks.read_log(out / "log.csv")] == ["1", "2"]


KILLED = """
    import json, os, signal, sys, threading, time
    import keras
    import numpy as np
    import tensorflow as tf
    import kpzoo
    from kpzoo import training
    from kpzoo.data import packing
    from kpzoo.data import load
    from kpzoo.export import to_savedmodel
    from kpzoo.losses import CPNLoss
    from kpzoo.training import keras_callbacks as callbacks

    def kill_after(seconds):
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def again_and_again(write, seed):
        # Writes until the kill comes, which is within the second to fourth time.
        started = time.perf_counter()
        for number in range(1000):
            write(number)
            if number == 0:
                kill_after(np.random.default_rng(seed).uniform(0, 3) * (time.perf_counter() - started))

    def pack(seed, out, data):
        data = load(data, "train")
        again_and_again(lambda number: packing.write_pack(data, f"{out}/{seed}-{number}", image_hw=(64, 64)), seed)

    def weights(seed, out, kind):
        model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
        again_and_again(lambda number: kpzoo.save_weights(model, f"{out}/{seed}-{number}.{kind}"), seed)

    def savedmodel(seed, out):
        model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
        again_and_again(lambda number: to_savedmodel(model, f"{out}/{seed}-{number}"), seed)

    def train(seed, out, data, where, epoch):
        # One run of three epochs; killed in an epoch, or in the writing of its checkpoint, `where` says; None: not.
        tf.config.experimental.enable_op_determinism()
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # see `unoptimized_graphs`

        def make_model():
            keras.utils.set_random_seed(0)
            model = kpzoo.build("cpn_tiny", image_hw=(64, 64), refine="concat")
            model.compile(training.AdamL2(training.halving(1e-3, 5)), CPNLoss())
            return model

        delay = np.random.default_rng(seed).uniform(0, 0.03)
        write, begin = callbacks.Checkpoint.on_epoch_end, callbacks.Throughput.on_epoch_begin

        def written(self, number, logs=None):
            if (where, epoch) == ("checkpoint", number):
                kill_after(delay)
                time.sleep(delay * (seed % 2))  # every other time it comes as the writing begins
            write(self, number, logs)
            if (where, epoch) == ("checkpoint", number):
                time.sleep(1)

        def begun(self, number, logs=None):
            begin(self, number, logs)
            if (where, epoch) == ("epoch", number):
                kill_after(10 * delay)

        callbacks.Checkpoint.on_epoch_end, callbacks.Throughput.on_epoch_begin = written, begun
        training.run(make_model, load(data, "train"), out, epochs=3, batch_size=2, augment="cpn", steps_per_epoch=3,
                     ema=0.9, clip_norm=1.0)

    for job in json.loads(sys.argv[1]):
        child = os.fork()  # what is imported is imported once
        if child == 0:
            code = 1
            try:
                globals()[job.pop("do")](**job)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def killed_processes(*jobs) -> tuple[list[int], str]:
    """Runs each job in a separate process; returns the exit codes, -9 for killed processes, and stderr."""
    if not hasattr(os, "fork"):
        pytest.skip("SIGKILL and fork are those of POSIX")
    command = [sys.executable, "-c", textwrap.dedent(KILLED), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return [int(line) for line in done.stdout.split() if line.lstrip("-").isdigit()], done.stderr


def test_a_training_that_is_killed_anywhere_ends_with_the_same_weights(small_folder, tmp_path):
    def job(seed, where=None, epoch=None, out="killed"):
        return dict(do="train", seed=seed, out=str(tmp_path / out), data=str(small_folder), where=where, epoch=epoch)

    kills = [job(0, "checkpoint", 1), job(1, "checkpoint", 2), job(2, "epoch", 2)]
    codes, told = killed_processes(*kills)
    assert codes == [-9] * 3, told[-3000:]
    newest = max((tmp_path / "killed/checkpoints").glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:2000])  # a truncated file falls back to the one before
    codes, told = killed_processes(job(3), job(3, out="whole"))
    assert codes == [0, 0], told[-3000:]
    assert f"{newest.name} cannot be read" in told
    whole, resumed = (training.load_run(tmp_path / name).get_weights() for name in ("whole", "killed"))
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    log = keras_callbacks.read_log(tmp_path / "killed/log.csv")
    assert [row["epoch"] for row in log] == ["1", "2", "3"]
    assert "3 epochs, 9 steps" in (tmp_path / "killed/summary.html").read_text()
    assert not list((tmp_path / "killed").rglob("*part*"))


def test_a_pack_whose_writer_is_killed_is_whole_or_not_there(small_folder, tmp_path):
    codes, told = killed_processes(
        *(dict(do="pack", seed=seed, out=str(tmp_path), data=str(small_folder)) for seed in range(4))
    )
    assert codes == [-9] * 4, told[-3000:]
    data, left = loading.load(small_folder, "train"), [path for path in tmp_path.iterdir() if path.name[0] == "."]
    whole = [path for path in tmp_path.iterdir() if path not in left]
    assert len(whole) >= 4 and left
    for path in whole:
        packs.check_shards(loading.load(path))
    for path in left:
        target = packing.write_pack(data, tmp_path / path.name[1:].removesuffix(".part"), image_hw=(64, 64))
        assert {file.name: file.read_bytes() for file in target.iterdir()} == {
            file.name: file.read_bytes() for file in whole[0].iterdir()
        }
    assert not [path for path in tmp_path.iterdir() if path.name[0] == "."]


def test_exports_that_are_killed_are_whole_or_not_there(model, tmp_path):
    kinds = ("weights.h5", "safetensors", "npz")
    jobs = [dict(do="weights", seed=seed, out=str(tmp_path), kind=kind) for seed, kind in enumerate(kinds)]
    codes, told = killed_processes(*jobs, dict(do="savedmodel", seed=3, out=str(tmp_path)))
    assert codes == [-9] * 4, told[-3000:]
    whole = [path for path in tmp_path.iterdir() if path.name[0] != "."]
    assert {path.name for path in whole} >= {"3-0", *(f"{seed}-0.{kind}" for seed, kind in enumerate(kinds))}
    for path in whole:
        if path.is_file():
            kpzoo.load_weights(model, path)
    folders = [{str(file.relative_to(path)) for file in path.rglob("*")} for path in whole if path.is_dir()]
    assert all(names == folders[0] and "saved_model.pb" in names for names in folders)
    again = str(tmp_path / f"3-{len(folders)}")  # the one that the kill came into
    arguments = ["export", "--model", "cpn_tiny", "--untrained", "--image-size", "64x64", "--out", again]
    assert cli.main(arguments) == 0
    assert (Path(again) / "saved_model.pb").exists()


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
