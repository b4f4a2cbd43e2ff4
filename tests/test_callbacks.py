"""What a run tells while it goes on: event files, the log, the page."""

import csv
import json
import math
import re

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from test_report import Tags

import kpzoo
from kpzoo import cli, evaluation, training
from kpzoo.data.batches import make_dataset
from kpzoo.data.loading import load
from kpzoo.errors import UserError
from kpzoo.html import charts
from kpzoo.losses import default_loss
from kpzoo.training import keras_callbacks, summary

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")


def events(folder) -> list[tuple[str, int, object]]:
    """Returns (tag, step, value) of all event files, in order."""
    found = []
    for path in sorted(folder.glob("events*"), key=lambda path: path.stat().st_mtime_ns):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                plugin, array = value.metadata.plugin_data.plugin_name, tf.make_ndarray(value.tensor)
                assert plugin == ("scalars" if array.ndim == 0 else "images")
                found.append((value.tag, event.step, array))
    return found


def test_event_files_have_numbers_and_pictures(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    writer = keras_callbacks.Events(tmp_path, lambda: picture)
    for epoch, loss in enumerate([0.5, 0.25, 0.125]):
        writer.on_epoch_end(epoch, {"loss": loss, "val_AP": 0.75})
        assert (tmp_path / summary.SHEET).exists()
        (tmp_path / summary.SHEET).unlink()
    writer.on_train_end()
    found = events(tmp_path / "tensorboard")
    numbers = [(tag, step, float(value)) for tag, step, value in found if tag != "val/predictions"]
    assert [row for row in numbers if row[0] == "train/loss"] == [
        ("train/loss", 1, 0.5), ("train/loss", 2, 0.25), ("train/loss", 3, 0.125),
    ]  # fmt: skip
    assert [step for tag, step, value in numbers if (tag, value) == ("val/AP", 0.75)] == [1, 2, 3]
    pictures = [(step, value) for tag, step, value in found if tag == "val/predictions"]
    assert [step for step, _ in pictures] == [1, 2, 3]
    width, height, png = pictures[0][1]
    assert (width, height) == (b"30", b"20")
    shown = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(shown, picture)


@pytest.fixture
def run_folder(tmp_path):
    """The folder of a run whose log has gaps, NaN, figures that there is nothing to measure with, and markup."""
    preset = {"name": "cpn_<nano>", "image_hw": [128, 96], "options": {}}
    record = {"preset": preset, "batch_size": 16, "steps_per_epoch": 10, "augment": {"scale": [0.7, 1.35]}}
    record["rate"] = {"class_name": "Constant", "config": {"value": 0.001}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "log.csv").write_text(
        "epoch,loss,loss_refine,val_AP,val_APM,learning_rate,images_per_s\n"
        "1,200,150,,,0.001,30\n2,nan,110,0.25,-1,0.001,40\n3,100,70,0.5,-1,0.0005,35\n4,120,80,0.375,-1,0.0005,35\n"
    )
    keras_callbacks.write_image(tmp_path / summary.SHEET, np.full((40, 30, 3), 90, np.uint8))
    return tmp_path


def test_the_page_of_a_run_is_one_file_with_every_part(run_folder, capsys):
    assert cli.main(["summary", str(run_folder)]) == 0
    assert capsys.readouterr().out.strip() == str(run_folder / "summary.html")
    text = (run_folder / "summary.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert not tags.open and all(address.startswith("data:image/jpeg;base64,") for address in tags.loads)
    assert len(tags.loads) == 1 and "http-equiv" not in text and "http" not in text.replace("http://www.w3.org", "")
    assert "cpn_<nano>, 128x96" in tags.texts and "4 epochs, 40 steps of 16 crops." in tags.texts
    joined = "|".join(tags.texts)
    for row in ("loss|120|100|3|", "val_AP|0.375|0.5|3|", "augment scale|[0.7, 1.35]", "rate|Constant|"):
        assert row in joined
    assert '<th>val_APM</th><td class="number">n/a</td><td class="number"></td>' in text
    assert text.count("<svg") == 4  # loss, AP, learning rate, images per second; no PCK was measured
    assert not re.search(r"\bnan\b", text)


def test_the_page_of_a_run_that_goes_on_is_loaded_anew(run_folder):
    text = summary.write_summary(run_folder, finished=False).read_text()
    assert f'http-equiv="refresh" content="{summary.RELOAD_S}"' in text and "Training is in progress." in text


def test_a_page_needs_no_epoch_but_a_run(run_folder, tmp_path_factory):
    (run_folder / "log.csv").unlink()
    assert "No epoch is finished yet" in summary.write_summary(run_folder).read_text()
    with pytest.raises(UserError, match="contains no training run"):
        summary.write_summary(tmp_path_factory.mktemp("empty"))
    for text in ("{", '{"preset": 3}', "[]"):
        (run_folder / "run.json").write_text(text)
        with pytest.raises(UserError, match="run.json' is damaged"):
            summary.write_summary(run_folder)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0.0], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0.3, 0.93], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0, 7], [0, 2, 4, 6, 8]),
        ([41.0, 39.0], [0, 10, 20, 30, 40, 50]),
        ([-0.3, 0.5], [-0.4, -0.2, 0, 0.2, 0.4, 0.6]),
        ([1.0, 30.0], [1, 2, 5, 10, 20, 50]),
        ([3e-5, 1e-3], [2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3]),
        ([1e-6, 1.0], [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]),
    ],
)
def test_an_axis_has_few_round_ticks_around_its_numbers(values, ticks):
    axis = charts.axis_for(values)
    np.testing.assert_allclose(axis.ticks, ticks, rtol=1e-9, atol=1e-12)
    assert all(-1e-9 <= axis.share(value) <= 1 + 1e-9 for value in values)


def test_a_log_keeps_the_rows_of_a_run_that_had_fewer_columns(tmp_path):
    log = keras_callbacks.EpochLog(tmp_path / "log.csv")
    log.on_epoch_end(0, {"loss": 2.0})
    log.on_epoch_end(1, {"loss": 1.0, "loss_refine": 0.5})
    log.on_epoch_end(1, {"loss": 1.0, "loss_refine": 0.75})  # cut off before its checkpoint, and redone
    with (tmp_path / "log.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["epoch", "loss", "loss_refine"], ["1", "2", ""], ["2", "1", "0.75"]]
    assert [row["loss_refine"] for row in summary.read_log(tmp_path / "log.csv")] == ["", "0.75"]
    (tmp_path / "log.csv").write_text("epoch,loss\n1.0,2\ncut o")  # a spreadsheet's, and what was cut off
    log.on_epoch_end(1, {"loss": 1.0})
    assert [row["epoch"] for row in summary.read_log(tmp_path / "log.csv")] == ["1.0", "2"]


@pytest.mark.parametrize("name", ["cpn_tiny", "mipnet_tiny"])
def test_a_run_that_goes_on_shows_one_curve_with_the_terms_of_the_loss(name, small_folder, tmp_path):
    data = load(small_folder, "train")

    def make_model():
        keras.utils.set_random_seed(0)
        model = kpzoo.build(name, image_hw=(64, 64))
        model.compile(training.AdamL2(1e-3), default_loss(model.preset))
        return model

    def draw(model):
        return evaluation.progress_sheet(model, data, 2)

    how = dict(batch_size=4, steps_per_epoch=2, augment=None, draw=draw, validate_every=5)
    for epochs in (1, 3):  # the second part goes on after the first
        training.run(make_model, data, tmp_path, epochs=epochs, validate=lambda model: {"AP": 0.5}, **how)
    terms = {"cpn_tiny": ("loss_refine", "loss_global"), "mipnet_tiny": ("loss_instance_0", "loss_instance_1")}[name]
    rows = summary.read_log(tmp_path / "log.csv")
    assert [(row["epoch"], row["val_AP"]) for row in rows] == [("1", "0.5"), ("2", ""), ("3", "0.5")]
    for row in rows:
        assert math.isclose(sum(float(row[term]) for term in terms), float(row["loss"]), rel_tol=1e-4)
    found = events(tmp_path / "tensorboard")
    for tag in (*(f"train/{term}" for term in terms), "train/pck", "train/learning_rate", "train/images_per_s"):
        assert [step for known, step, _ in found if known == tag] == [1, 2, 3]
    assert [step for tag, step, _ in found if tag == "val/predictions"] == [1, 2, 3]  # not validated, yet drawn
    page = (tmp_path / "summary.html").read_text()
    assert "3 epochs, 6 steps of 4 crops." in page and "http-equiv" not in page and "data:image/jpeg" in page


def test_a_sheet_shows_all_poses_that_are_found_beside_those_that_are_annotated(small_folder, monkeypatch):
    """A model that knows the targets finds what is annotated, the second instance too."""
    data, model = load(small_folder, "train"), kpzoo.build("mipnet_tiny", image_hw=(64, 64))
    batch = next(iter(make_dataset(data, model, 2)))
    sheets = []
    for known in (batch["heatmaps"], batch["heatmaps"] * np.array([1, 0], np.float32)[:, None, None, None]):
        finding = "kpzoo.evaluation.sheets.instance_heatmaps"
        monkeypatch.setattr(finding, lambda *_, known=known: tf.convert_to_tensor(known))
        sheet = np.asarray(evaluation.progress_sheet(model, data, 2))
        step = (sheet.shape[1] - 4) // 8
        sheets.append([sheet[4:68, 4 + step * index : 68 + step * index] for index in range(8)])
    both, first_alone = sheets
    for annotated, found in ((0, 1), (4, 5)):
        np.testing.assert_array_equal(both[annotated], both[found])
        np.testing.assert_array_equal(both[annotated], first_alone[annotated])
    assert any((both[found] != first_alone[found]).any() for found in (1, 5))
    assert (both[1] != batch["image"][0].numpy().round().astype(np.uint8)).any()
