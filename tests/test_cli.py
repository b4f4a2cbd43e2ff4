"""The command line: what it prints, what it writes, and how it fails."""

import csv
import json
import os
import subprocess
import sys

import pytest

import kpzoo
from kpzoo import cli, images, training
from kpzoo.commands.predict import DEFAULT_MODEL
from kpzoo.data import loading
from kpzoo.evaluation.metrics import average_precision
from kpzoo.inference import pictures
from kpzoo.training import keras_callbacks


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


OPTIONS = ["--epochs", "1", "--batch-per-device", "4", "--base-batch", "8", "--warmup", "3", "--ema", "0.9"]
OPTIONS += ["--half-body", "0.4", "--clip-norm", "10", "--precision", "mixed_bfloat16", "--sync-batch-norm"]


@pytest.fixture(scope="module")
def trained(small_folder, tmp_path_factory):
    """The folder of a run of one short epoch by the command line."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    arguments = ["--model", "cpn_tiny", "--image-size", "64x64", "--data", small_folder, "--val-split", "train"]
    arguments += ["--out", out, *OPTIONS]
    assert cli.main(["train", *map(str, arguments)]) == 0
    return out


def test_models_are_listed_as_a_table_and_as_json(capsys):
    code, out, _ = run(capsys, "models", "cpn_*")
    assert code == 0
    assert "cpn_res50" in out
    assert "27.01 M" in out
    code, out, _ = run(capsys, "models", "cpn_res50", "--json")
    assert json.loads(out)[0]["num_params"] == kpzoo.info("cpn_res50").num_params


@pytest.mark.parametrize(
    ("pattern", "name", "told"),
    [
        (DEFAULT_MODEL, DEFAULT_MODEL, kpzoo.info(DEFAULT_MODEL).weights[-1]),
        ("mipnet_hrnet_w3?", "mipnet_hrnet_w32", "in MIMBs"),
    ],
)
def test_of_one_model_alone_all_is_told(pattern, name, told, capsys):
    code, out, _ = run(capsys, "models", pattern)
    assert (code, out) == (0, f"{kpzoo.info(name)}\n")
    assert told in out


def test_a_run_holds_what_the_next_commands_need(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"run.json", "model.weights.h5", "log.csv", "checkpoints", "tensorboard"} <= names
    assert training.load_run(trained).preset.image_hw == (64, 64)
    row = keras_callbacks.read_log(trained / "log.csv")[0]
    assert {"epoch", "loss", "pck", "images_per_s", "learning_rate", "val_AP"} <= set(row)


def test_train_tells_machines_the_log_and_the_figures_of_a_run_and_nothing_else(trained, small_folder, capsys):
    arguments = ["--model", "cpn_tiny", "--image-size", "64x64", "--data", small_folder, "--val-split", "train"]
    arguments += ["--out", trained, *OPTIONS, "--json", "--resume"]  # the run is done already
    code, out, _ = run(capsys, "train", *arguments)
    told = json.loads(out)
    assert code == 0 and told["out"] == str(trained)
    row = told["log"][0]
    assert row["epoch"] == 1 and row["loss"] == pytest.approx(row["loss_refine"] + row["loss_global"], rel=1e-4)
    assert 0 <= told["metrics"]["AP"] <= 1


def test_the_options_of_a_training_are_in_its_record_and_other_ones_refused(trained, small_folder, capsys):
    record = json.loads((trained / "run.json").read_text())
    expected = dict(batch_size=4, base_batch=8, warmup=3, ema=0.9, precision="mixed_bfloat16", sync_batch_norm=True)
    assert {name: record[name] for name in expected} == expected
    assert record["augment"]["half_body_probability"] == 0.4 and record["augment"]["rotation"] == 45  # else as "cpn"
    assert record["optimizer"]["config"]["global_clipnorm"] == 10
    rate = record["optimizer"]["config"]["learning_rate"]["config"]
    assert (rate["factor"], rate["warmup"]) == (0.5, 3)
    arguments = ["--model", "cpn_tiny", "--image-size", "64x64", "--data", small_folder, "--val-split", ""]
    code, _, err = run(capsys, "train", *arguments, "--out", trained, "--epochs", "2", "--batch-size", "4")
    assert code == 2
    assert "started with precision=mixed_bfloat16. Received: float32" in err


@pytest.mark.parametrize(
    ("model", "given", "expected", "told"),
    [
        ("cpn_tiny", [], ("AdamL2", 5e-4, "cpn"), "optimizer adam_l2, learning rate 0.0005"),
        ("hrnet_tiny", [], ("Adam", 1e-3, "hrnet"), "learning rate 0.001, divided by 10 after step"),
        (
            "hrnet_tiny",
            ["--optimizer", "adam_l2", "--learning-rate", "0.002", "--schedule", "constant", "--augment", "cpn"],
            ("AdamL2", 2e-3, "cpn"),
            "optimizer adam_l2, learning rate 0.002, constant, augmentation cpn",
        ),
    ],
)
def test_a_model_is_trained_as_its_reference_unless_options_say_otherwise(
    model, given, expected, told, small_folder, tmp_path, monkeypatch, capsys
):
    runs = []
    monkeypatch.setattr(training, "run", lambda make_model, *_, **how: runs.append((make_model().optimizer, how)))
    arguments = ["train", "--model", model, "--image-size", "64x64", "--data", str(small_folder), "--val-split", ""]
    assert cli.main([*arguments, "--out", str(tmp_path), *given]) == 0
    [(optimizer, how)] = runs
    assert (type(optimizer).__name__, float(optimizer.learning_rate), how["augment"]) == pytest.approx(expected)
    assert f"training {model}: " in (err := capsys.readouterr().err) and told in err


def test_the_rules_for_several_people_of_a_box_reach_data_and_loss(small_folder, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(training, "run", lambda make_model, *_, **how: runs.append((make_model().loss, how)))
    arguments = ["train", "--model", "mipnet_tiny", "--image-size", "64x64", "--data", str(small_folder)]
    arguments += ["--val-split", "", "--out", str(tmp_path)]
    for given in ([], ["--instance-rule", "official", "--missing", "ignore"]):
        assert cli.main([*arguments, *given]) == 0
    assert [(loss.missing, how["instance_rule"]) for loss, how in runs] == [("repeat", "paper"), ("ignore", "official")]
    assert runs[0][1]["augment"] == "simplebaseline"


def test_evaluate_scores_a_model_and_its_results_file_alike(trained, small_folder, tmp_path, capsys):
    annotations = small_folder / "annotations/person_keypoints_train.json"
    results = tmp_path / "results.json"
    code, out, _ = run(
        capsys, "evaluate", "--model", trained, "--annotations", annotations, "--json", "--save-results", results
    )
    assert code == 0
    found = json.loads(out)
    assert found["boxes"] == "gt (annotated)"
    code, out, _ = run(capsys, "evaluate", "--annotations", annotations, "--results", results, "--json")
    assert code == 0
    alone = json.loads(out)
    assert alone["metrics"] == {name: found["metrics"][name] for name in alone["metrics"]}
    data = loading.load(annotations=annotations)
    assert alone["protocol"] == "coco"
    from kpzoo.data.results import read_results

    assert alone["metrics"] == average_precision(data.annotations, read_results(results, data.annotations)).values


def test_evaluate_takes_a_name_with_weights(trained, small_folder, capsys):
    annotations = small_folder / "annotations/person_keypoints_train.json"
    arguments = ["--model", "cpn_tiny", "--image-size", "64x64", "--weights", trained / "model.weights.h5"]
    code, out, _ = run(capsys, "evaluate", *arguments, "--annotations", annotations, "--boxes", "gt", "--json")
    again = run(capsys, "evaluate", "--model", trained, "--annotations", annotations, "--json")[1]
    assert json.loads(out)["metrics"] == json.loads(again)["metrics"]


def test_evaluate_takes_the_pictures_of_its_split(trained, tmp_path, capsys):
    """Splits of scenes have equal file names: the pictures of another split would give a wrong AP in silence."""
    for split, seed in (("train", 1), ("val", 2)):
        assert run(capsys, "data", "make", tmp_path, "--images", 2, "--split", split, "--seed", seed)[0] == 0
    results, arguments = tmp_path / "results.json", ["evaluate", "--model", trained, "--no-flip", "--save-results"]
    arguments += [results, "--annotations", tmp_path / "annotations/person_keypoints_val.json"]
    texts = []
    for images_option in ([], ["--images", tmp_path / "images/val"], ["--images", tmp_path / "images/train"]):
        assert run(capsys, *arguments, *images_option)[0] == 0
        texts.append(results.read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.fixture
def photos(small_folder, tmp_path):
    """Two pictures and one that is none."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/bad.jpg").write_text("<html>")
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "photos" / name).write_bytes((small_folder / "images/train" / name).read_bytes())
    return tmp_path / "photos"


def predict(capsys, photos, trained, *options):
    out = photos.parent / "out"
    return *run(capsys, "predict", photos, "--model", trained, "--out", out, "--no-flip", *options), out


BOX = ("--box", "10", "10", "60", "90")


def test_predict_draws_pictures_and_writes_results(trained, photos, capsys):
    code, told, err, out = predict(capsys, photos, trained, *BOX, "--json")
    assert code == 2  # not all could be read; the others are done
    assert "bad.jpg" in err
    summary = json.loads(told)
    assert (summary["num_pictures"], summary["num_poses"], len(summary["problems"])) == (2, 2, 1)
    assert {path.name for path in out.iterdir()} == {"pictures", "results.json", "poses.csv", "progress.jsonl"}
    assert {path.name for path in (out / "pictures").iterdir()} == {"1.jpg", "2.jpg"}
    records = json.loads((out / "results.json").read_text())
    assert [record["file_name"] for record in records] == ["1.jpg", "2.jpg"]
    rows = list(csv.DictReader((out / "poses.csv").open()))
    assert [row["image"] for row in rows] == ["1.jpg", "2.jpg"]
    assert float(rows[1]["nose_x"]) == records[1]["keypoints"][0]


def test_predict_goes_on_where_it_was_and_refuses_other_settings(trained, photos, capsys):
    *_, out = predict(capsys, photos, trained, *BOX)
    first = (out / "results.json").read_text()
    progress = out / "progress.jsonl"
    lines = progress.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    progress.write_text("".join(lines[:2]) + lines[2][:50])  # as a killed run leaves it
    code, told, _, _ = predict(capsys, photos, trained, *BOX, "--json")
    assert (json.loads(told)["num_skipped"], json.loads(told)["num_pictures"]) == (1, 1)
    assert [record["file_name"] for record in json.loads((out / "results.json").read_text())] == ["1.jpg", "2.jpg"]
    (out / "pictures/1.jpg").unlink()
    told = predict(capsys, photos, trained, *BOX, "--json")[1]
    assert json.loads(told)["num_pictures"] == 1
    for record, before in zip(json.loads((out / "results.json").read_text()), json.loads(first), strict=True):
        assert record["file_name"] == before["file_name"]
        assert record["keypoints"] == pytest.approx(before["keypoints"], abs=1e-3)  # batches of other sizes
    code, _, err, _ = predict(capsys, photos, trained, "--box", "0", "0", "50", "50")
    assert code == 2
    assert "have other settings (boxes: [[10.0, 10.0, 60.0, 90.0]] before, [[0.0, 0.0, 50.0, 50.0]] now)" in err
    assert predict(capsys, photos, trained, "--box", "0", "0", "50", "50", "--overwrite")[0] == 2
    assert (out / "results.json").read_text() != first


def test_predict_does_not_touch_a_folder_that_is_not_its_own(trained, photos, capsys):
    (photos.parent / "out").mkdir()
    (photos.parent / "out/mine.txt").write_text("mine")
    code, _, err, out = predict(capsys, photos, trained, *BOX)
    assert code == 2
    assert "exists without an earlier run" in err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    code, _, err = run(capsys, "predict", out / "pictures/1.jpg", "--model", trained, "--out", out, *BOX, "--overwrite")
    assert code == 2
    assert "would replace them" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "--results", "r.json", "--boxes", "b.json", "--box-nms", "0"], "--boxes, --box-nms need --model"),
        (["evaluate", "--results", "r.json", "--save-results", "s.json"], "--save-results need --model"),
        (["evaluate", "--results", "r.json", "--report", "missing/r.html"], "missing"),
        (["evaluate", "--model", "m", "--save-results", "missing/r.json"], "missing"),
        (["evaluate", "--model", "m", "--pose-nms", "nan"], "expected a number from 0 to 1, received 'nan'"),
        (["train", "--learning-rate", "-1"], "expected a number above 0, received '-1'"),
        (["train", "--seed", "99999999999999999999"], "expected a whole number from 0 to 4294967295"),
        (["train", "--crowd", "2"], "expected a number from 0 to 1, received '2'"),
    ],
)
def test_numbers_without_meaning_and_options_without_effect_are_refused(arguments, message, capsys):
    needed = {"evaluate": ["--annotations", "a.json"], "train": ["--model", "m", "--data", "d", "--out", "o"]}
    arguments = [*arguments, *needed[arguments[0]]]
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_predict_shows_the_poses_before_and_after_nms(trained, photos, capsys):
    *_, out = predict(capsys, photos, trained, "--detector", "whole")
    code, told, _, _ = predict(capsys, photos, trained, "--detector", "whole", "--show-nms", "--json")
    assert (code, json.loads(told)["num_pictures"]) == (2, 2)  # done, but without the sheets
    assert {path.name for path in (out / "nms").iterdir()} == {"1.jpg", "2.jpg"}
    assert images.size_of(out / "nms/1.jpg")[1] > 2 * images.size_of(out / "pictures/1.jpg")[1]
    told = predict(capsys, photos, trained, "--detector", "whole", "--show-nms", "--json")[1]
    assert json.loads(told)["num_skipped"] == 2


HOLD = """
import sys, time
from kpzoo.inference.outputs import OutputFolder
from kpzoo.skeletons import COCO17
folder = OutputFolder(sys.argv[1], COCO17, {})
print("held", flush=True)
time.sleep(600)
"""


def test_two_runs_do_not_write_to_one_folder_and_a_killed_one_does_not_hold_it(trained, photos, capsys):
    held = subprocess.Popen([sys.executable, "-c", HOLD, str(photos.parent / "out")], stdout=subprocess.PIPE, text=True)
    try:
        assert held.stdout.readline() == "held\n"
        for option in ([], ["--overwrite"]):
            code, _, err, out = predict(capsys, photos, trained, *BOX, *option)
            assert code == 2
            assert f"Another run is writing to {out}" in err
            assert [path.name for path in out.iterdir()] == ["progress.jsonl"]
    finally:
        held.kill()
        held.communicate()
    assert predict(capsys, photos, trained, *BOX, "--overwrite")[0] == 2
    assert predict(capsys, photos, trained, *BOX)[0] == 2


def test_predict_fails_if_not_one_picture_can_be_read(trained, photos, capsys):
    for name in ("1.jpg", "2.jpg"):
        (photos / name).write_bytes(b"")
    code, _, err, out = predict(capsys, photos, trained, *BOX)
    assert code == 2
    assert "None of the 3 images can be read" in err
    assert json.loads((out / "results.json").read_text()) == []


def test_predict_takes_a_detector_with_options_and_tells_when_nobody_is_found(trained, photos, capsys):
    code, told, err, out = predict(capsys, photos, trained, "--no-pictures", "--min-box-score", "1", "--json")
    assert json.loads(told)["num_poses"] == 0
    assert "detector found no person" in err
    told = predict(capsys, photos, trained, "--detector", "whole", "--min-box-size", "121", "--overwrite", "--json")[1]
    assert (json.loads(told)["num_pictures"], json.loads(told)["num_poses"]) == (2, 0)  # they are 120 pixels high
    options = ["--detector", "whole", "--no-pictures", "--overwrite", "--box-nms", "hard", "--pose-nms", "0.5"]
    assert predict(capsys, photos, trained, *options)[0] == 2
    records = json.loads((out / "results.json").read_text())
    assert [record["box_image_xywh"] for record in records] == [[0, 0, 160, 120]] * 2
    boxes = photos.parent / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 99, "bbox": [0, 0, 5, 5], "score": 1, "category_id": 1}]))
    code, _, err, _ = predict(capsys, photos, trained, "--detector", boxes)
    assert code == 2
    assert "has boxes of none of the 3 images" in err


def test_predict_does_not_go_on_with_another_content_of_the_box_file(trained, photos, capsys):
    boxes = photos.parent / "boxes.json"
    for height, expected in ((50, "bad.jpg"), (60, "have other settings (detector_file: ")):
        boxes.write_text(json.dumps([{"image_id": 1, "bbox": [0, 0, 40, height], "score": 1, "category_id": 1}]))
        code, _, err, _ = predict(capsys, photos, trained, "--detector", boxes, "--no-pictures")
        assert code == 2
        assert expected in err


def test_predict_takes_the_files_that_a_shell_lists(trained, photos, capsys):
    [one, two] = sorted(photos.glob("?.jpg"))
    out = photos.parent / "out"
    code, told, err = run(capsys, "predict", one, two, one, "--model", trained, "--out", out, *BOX, "--json")
    assert (code, json.loads(told)["num_pictures"], err.count("bad.jpg")) == (0, 2, 0)
    (photos / "more").mkdir()
    (photos / "more/3.png").write_bytes(two.read_bytes())
    boxes = photos.parent / "boxes.json"
    assert run(capsys, "detect", one, photos / "more", "--detector", "whole", "--out", boxes)[0] == 0
    assert [row["file_name"] for row in json.loads(boxes.read_text())] == ["1.jpg", "more/3.png"]
    for other, reason in (("webcam", "Pass it alone"), ("s3://b/a.jpg", "one source")):
        code, _, err = run(capsys, "predict", one, other, "--out", out)
        assert (code, reason in err) == (2, True)


def test_int8_is_calibrated_without_losing_frames(trained, tmp_path, capsys):
    from test_streams import write_video

    video, out = write_video(tmp_path / "walk.avi", 12), tmp_path / "out"
    options = ["--detector", "whole", "--engine", "openvino", "--precision", "int8", "--no-flip", "--json"]
    code, told, _ = run(capsys, "predict", video, "--model", trained, "--out", out, *options)
    assert (code, json.loads(told)["num_pictures"]) == (0, 12)


def test_predict_writes_a_video_of_a_video(trained, tmp_path, capsys):
    from test_streams import write_video

    video, out = write_video(tmp_path / "walk.avi", 12), tmp_path / "out"
    arguments = ["predict", video, "--model", trained, "--out", out, "--detector", "whole", "--every", "4", "--json"]
    for done in (0, 12):  # a second run has nothing to do
        code, told, _ = run(capsys, *arguments)
        assert code == 0
        assert (json.loads(told)["num_pictures"], json.loads(told)["num_skipped"]) == (12 - done, done)
    written = pictures.Video(out / "walk.mp4")
    assert (len(list(written)), written.num_broken, written.fps) == (12, 0, 20)
    records = json.loads((out / "results.json").read_text())
    assert [record["image_id"] for record in records] == list(range(12))
    other = ["predict", write_video(tmp_path / "run.avi", 3), *arguments[2:]]
    assert run(capsys, *other)[0] == 2  # the poses of another video stay
    assert json.loads((out / "results.json").read_text()) == records


def test_results_of_pictures_named_by_number_are_scored_by_evaluate(trained, small_folder, tmp_path, capsys):
    """And alike, with boxes in the file: no area comes from them."""
    out = tmp_path / "out"
    arguments = ["--model", trained, "--detector", "whole", "--out", out, "--no-pictures"]
    assert run(capsys, "predict", small_folder / "images/train", *arguments)[0] == 0
    annotations = small_folder / "annotations/person_keypoints_train.json"
    assert run(capsys, "evaluate", "--annotations", annotations, "--results", out / "results.json", "--json")[0] == 0


def test_export_writes_a_savedmodel(trained, tmp_path, capsys):
    code, out, _ = run(capsys, "export", "--model", trained, "--out", tmp_path / "tiny/1")
    assert code == 0
    assert (tmp_path / "tiny/1/saved_model.pb").exists()


def test_data_make_and_show(tmp_path, capsys):
    assert run(capsys, "data", "make", tmp_path / "scenes", "--images", 3, "--split", "val")[0] == 0
    assert run(capsys, "data", "show", tmp_path / "scenes", "--split", "val", "--out", tmp_path / "sheet.png")[0] == 0
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "nothing_*"], "No model matches"),
        (["evaluate", "--annotations", "missing.json", "--results", "r.json"], "missing.json does not exist"),
        (["evaluate", "--annotations", "a.json"], "--results FILE and --detections FILE"),
        (["predict", "missing.jpg", "--model", "cpn_tiny", "--weights", "w.weights.h5", "--out", "x"], "w.weights.h5"),
        (["predict", "missing*.jpg", "--model", "no_run", "--out", "x"], "missing*.jpg"),
        (["predict", "a.jpg", "--model", "r", "--out", "x", "--box-iou", "0.3"], "--box-nms hard or linear"),
        (["predict", "a.jpg", "--model", "r", "--out", "x", "--box-sigma", "0.3"], "--box-nms gaussian"),
        (["predict", "a.jpg", "--model", "r", "--out", "x", *BOX, "--every", "2"], "Drop --every, or --box"),
        (["train", "--model", "cpn_res50", "--data", "nowhere", "--out", "x"], "nowhere"),
        (["train", "--model", "cpn_res5O", "--data", "nowhere", "--out", "x"], "Did you mean 'cpn_res50'"),
        (["train", "--model", "m", "--data", "d", "--out", "x", "--resume"], "'x' contains no training run to resume"),
        (["train", "--model", "cpn_tiny", "--data", "d", "--out", "x", "--missing", "ignore"], "are for MIPNets"),
        (["export", "--model", "cpn_tiny", "--out", "x"], "Pass --weights FILE"),
        (["export", "--model", "cpn_reess50", "--out", "x"], "Did you mean 'cpn_res50'"),
        (["data", "make", "x", "--crowding", "7"], "crowding"),
        (["data", "show", "nowhere"], "nowhere"),
        (["data", "compose", "nowhere", "x"], "nowhere"),
        (["convert", "missing.pth", "x.weights.h5", "--model", "cpn_tiny"], "missing.pth"),
        (["doctor", "missing.pth"], "missing.pth"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.startswith("kpzoo: error: ")
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", ["--min-box-score=1.1", "--min-box-score=nan", "--box-iou=-1", "--pose-nms=2", "--min-box-size=-1",
               "--min-box-size=inf", "--box-sigma=0", "--pose-nms=x"],
)  # fmt: skip
def test_predict_refuses_numbers_that_mean_nothing(option, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", "a.jpg", "--model", "m", "--out", "o", option])
    assert stop.value.code == 2
    name, _, value = option.partition("=")
    assert f"argument {name}: expected a number" in (told := capsys.readouterr().err) and f"received {value!r}" in told


@pytest.mark.parametrize("text", ["256", "256xabc", "x", "3.5x4"])
def test_sizes_are_height_x_width(text, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--model", "cpn_tiny", "--data", "d", "--out", "o", "--image-size", text])
    assert stop.value.code == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [("kpzoo da", {"data"}), ("kpzoo data m", {"make"}), ("kpzoo evaluate --prot", {"--protocol"})],
)
def test_the_shell_is_told_what_can_follow(line, expected, tmp_path):
    """By argcomplete's own protocol; the shell's side of it is one `eval`."""
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer"), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    code = "import sys; from kpzoo import cli; cli.main()"
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, timeout=900)
    assert result.returncode == 0
    assert set((tmp_path / "answer").read_text().split()) == expected


def test_a_closed_pipe_ends_quietly():
    command = f"{sys.executable} -c 'from kpzoo import cli; raise SystemExit(cli.main([\"models\"]))' | head -n 1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=900)
    assert "Traceback" not in result.stderr
    assert result.stdout.startswith("model")


def test_devices_share_an_evaluation_and_hosts_do_not(trained, small_folder, tmp_path, capsys):
    arguments = [
        "evaluate",
        "--model",
        trained,
        "--annotations",
        small_folder / "annotations/person_keypoints_train.json",
    ]
    arguments += ["--images", small_folder / "images/train", "--pose-nms", "1", "--save-results"]
    assert run(capsys, *arguments, tmp_path / "alone.json")[0] == 0
    cluster = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 1}}
    arguments = [*map(str, arguments), str(tmp_path / "shared.json"), "--devices", "2"]
    command = [sys.executable, "-c", "import sys; from kpzoo import cli; sys.exit(cli.main())", *arguments]
    environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    alone, shared = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "shared"))
    assert len(alone) == len(shared) > 0
    for one, other in zip(alone, shared, strict=True):
        assert one["image_id"] == other["image_id"]
        assert other["keypoints"] == pytest.approx(one["keypoints"], abs=0.01)
