"""The command line: what it prints, what it writes, and how it fails."""

import json
import subprocess
import sys

import pytest

import kpzoo
from kpzoo import cli, training
from kpzoo.data import files
from kpzoo.metrics import average_precision


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def trained(small_folder, tmp_path_factory):
    """The folder of a run of one short epoch by the command line."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    arguments = ["--model", "cpn_tiny", "--image-size", "64x64", "--data", small_folder, "--val-split", "train"]
    arguments += ["--out", out, "--epochs", "1", "--batch-size", "4"]
    assert cli.main(["train", *map(str, arguments)]) == 0
    return out


def test_models_are_listed_as_a_table_and_as_json(capsys):
    code, out, _ = run(capsys, "models", "cpn_*")
    assert code == 0
    assert "cpn_res50" in out
    assert "27.01 M" in out
    code, out, _ = run(capsys, "models", "cpn_res50", "--json")
    assert json.loads(out)[0]["num_params"] == kpzoo.info("cpn_res50").num_params


def test_a_run_holds_what_the_next_commands_need(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"run.json", "model.weights.h5", "log.csv", "checkpoints", "tensorboard"} <= names
    assert training.load_run(trained).preset.image_hw == (64, 64)
    row = training.read_log(trained / "log.csv")[0]
    assert {"epoch", "loss", "pck", "images_per_s", "learning_rate", "val_AP"} <= set(row)


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
    data = files.load(annotations=annotations)
    assert alone["protocol"] == "coco"
    from kpzoo.data.results import read_results

    assert alone["metrics"] == average_precision(data.annotations, read_results(results, data.annotations)).values


def test_evaluate_takes_a_name_with_weights(trained, small_folder, capsys):
    annotations = small_folder / "annotations/person_keypoints_train.json"
    arguments = ["--model", "cpn_tiny", "--image-size", "64x64", "--weights", trained / "model.weights.h5"]
    code, out, _ = run(capsys, "evaluate", *arguments, "--annotations", annotations, "--boxes", "gt", "--json")
    again = run(capsys, "evaluate", "--model", trained, "--annotations", annotations, "--json")[1]
    assert json.loads(out)["metrics"] == json.loads(again)["metrics"]


def test_predict_draws_pictures_and_writes_results(trained, small_folder, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/bad.jpg").write_text("<html>")
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "photos" / name).write_bytes((small_folder / "images/train" / name).read_bytes())
    box = ["--box", "10", "10", "60", "90"]
    code, out, err = run(capsys, "predict", tmp_path / "photos", "--model", trained, "--out", tmp_path / "out", *box)
    assert code == 0
    assert "bad.jpg" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"1.jpg", "2.jpg", "results.json"}
    records = json.loads((tmp_path / "out/results.json").read_text())
    assert [record["file_name"] for record in records] == ["1.jpg", "2.jpg"]


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
        (["evaluate", "--annotations", "a.json"], "--results FILE or --model NAME"),
        (["predict", "missing.jpg", "--model", "cpn_tiny", "--weights", "w.weights.h5", "--out", "x"], "w.weights.h5"),
        (["predict", "missing*.jpg", "--model", "no_run", "--out", "x"], "missing*.jpg"),
        (["train", "--model", "cpn_res5O", "--data", "nowhere", "--out", "x"], "nowhere"),
        (["export", "--model", "cpn_tiny", "--out", "x"], "Pass --weights FILE"),
        (["data", "make", "x", "--crowding", "7"], "crowding"),
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


@pytest.mark.parametrize("text", ["256", "256xabc", "x", "3.5x4"])
def test_sizes_are_height_x_width(text, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--model", "cpn_tiny", "--data", "d", "--out", "o", "--image-size", text])
    assert stop.value.code == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly():
    command = f"{sys.executable} -c 'from kpzoo import cli; raise SystemExit(cli.main([\"models\"]))' | head -n 1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in result.stderr
    assert result.stdout.startswith("model")
