"""The recipe of the lite0 models: it starts from the detector's trunk, passes from stage to stage, and is resumed."""

import argparse
import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import kpzoo
from kpzoo.errors import UserError
from kpzoo.scenes import write_drawn

PAGE = Path(__file__).resolve().parents[1] / "recipes" / "lite0.py"

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("lite0_page", PAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    annotations = write_drawn(folder, 3, image_hw=(96, 96), people=(1, 1))
    row = {"annotations": str(annotations), "images": str(folder / "images" / "train")}
    (folder / "val.json").write_text(json.dumps(row))
    rows = [{**row, "share": 2, "crowd": True}, {**row, "share": 1, "visibility": "labelled"}]
    (folder / "sources.json").write_text(json.dumps(rows))
    return folder


def test_the_trunk_is_that_of_the_detector(page):
    model, detector = kpzoo.build("cpn_lite0"), kpzoo.build(page.DETECTOR, weights=page.DETECTOR + ".people_416x416")
    page.start(model, None)
    for name in ("stem_conv", "block7_expand_conv", "block15_project_bn"):
        for one, other in zip(model.get_layer(name).get_weights(), detector.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_stages_follow_each_other_and_a_second_call_trains_no_more(page, files, tmp_path, monkeypatch):
    stages = [page.Stage((64, 64), 1, 1e-3), page.Stage((96, 64), 1, 1e-3, True, 0.5)]
    for name, value in dict(RUNS={"cpn_lite_tiny": stages}, BATCH_SIZE=2, STEPS_PER_EPOCH=2, WARMUP=1).items():
        monkeypatch.setattr(page, name, value)
    keras.utils.set_random_seed(0)
    first = kpzoo.build("cpn_lite_tiny", image_hw=(64, 64))
    weights = kpzoo.save_weights(first, tmp_path / "first.safetensors")
    args = dict(sources=files / "sources.json", val=files / "val.json", weights=weights, seed=0)
    args = argparse.Namespace(name="cpn_lite_tiny", out=tmp_path / "run", **args)
    page.main(args)
    ends = [tmp_path / "run" / folder / page.WEIGHTS for folder in ("1_64x64", "2_96x64")]
    one, other = (
        kpzoo.build("cpn_lite_tiny", image_hw=stage.image_hw, weights=path)
        for stage, path in zip(stages, ends, strict=True)
    )
    layers = {"frozen": "block0_project_conv", "trained": "global_c5_lateral_conv"}
    for model, before in ((one, first), (other, one)):
        for kind, layer in layers.items():
            same = np.array_equal(model.get_layer(layer).get_weights()[0], before.get_layer(layer).get_weights()[0])
            assert same == (kind == "frozen")
    assert [row["steps"] for row in json.loads((tmp_path / "run/stages.json").read_text())] == [2, 2]
    times = [path.stat().st_mtime_ns for path in ends]
    page.main(args)
    assert [path.stat().st_mtime_ns for path in ends] == times
    assert (tmp_path / "run/2_96x64/results.json").exists()
    assert json.loads((tmp_path / "run/2_96x64/run.json").read_text())["crowd"]["share"] == 0.5
    monkeypatch.setattr(args, "sources", files / "none.json")
    (files / "none.json").write_text(json.dumps([{**json.loads((files / "val.json").read_text()), "share": 1}]))
    with pytest.raises(UserError, match="composes crowds: mark one of .*none.json"):
        page.main(args)
