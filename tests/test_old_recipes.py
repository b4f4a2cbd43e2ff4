"""Each of the pages with one run asks for the same training as its row of a table."""

import importlib
import re
import runpy
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

import kpzoo
from kpzoo import evaluation, training
from kpzoo.models import build
from kpzoo.skeletons import COCO17, CROWDPOSE14

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
sys.path.insert(0, str(RECIPES))
TABLES = [importlib.import_module(name) for name in ("cpn", "hrnet", "mipnet")]
PAGES = sorted(path for path in RECIPES.glob("*.py") if re.search(r"_(coco|crowdpose)_\d+x\d+$", path.stem))
PLACES = (0.001, 0.25, 0.5, 0.75, 0.999)  # of the training, where learning rates are compared
NUM_PERSONS = 4321
OPTIONS = ["--val-data", "val", "--batch-size", "64", "--ema", "0.9", "--warmup", "7", "--clip-norm", "2"]
OPTIONS += ["--precision", "mixed_bfloat16", "--devices", "2", "--sync-batch-norm", "--out", "out"]
COMMANDS = [["--data", "data", "--weights", "file"], ["--data", "data", "--weights", "none", *OPTIONS]]


@cache
def tiny(name):
    family = "mipnet" if name.startswith("mipnet_res") else re.sub(r"_(res\d+|w\d+|\d)$", "", name)
    return build(f"{family}_tiny", image_hw=(64, 64))


def config(thing):
    """What a Keras object is serialized to, without the names that count objects."""
    told = keras.saving.serialize_keras_object(thing)
    told["config"].pop("name", None)
    return told


def asked(monkeypatch, page, *arguments):
    """Everything that a page asks of kpzoo, in the order in which it does."""
    calls = []
    monkeypatch.setattr(sys, "argv", [page.name, *arguments])
    monkeypatch.setattr(keras.utils, "set_random_seed", lambda seed: calls.append(("seed", seed)))
    monkeypatch.setattr(evaluation, "progress_sheet", lambda *args: calls.append(("sheet", args)))
    monkeypatch.setattr(training, "num_persons", lambda data: NUM_PERSONS)

    def load(folder, split):
        calls.append(("load", folder, split))
        return SimpleNamespace(skeleton=COCO17 if "2017" in split else CROWDPOSE14, split=split)

    def build_tiny(name, **options):
        calls.append(("build", name, options))
        return tiny(name)

    def evaluate(*args, **how):
        calls.append(("evaluate", args, how))
        return SimpleNamespace(values={})

    def run(make_model, data, folder, *, validate, draw, **how):
        model = make_model()
        calls.append(("run", data, folder, how))
        steps = how["epochs"] * how["steps_per_epoch"]
        rates = [float(model.optimizer._learning_rate(int(place * steps))) for place in PLACES]
        calls.append(("compiled", config(model.optimizer), config(model.loss), rates))
        validate(model)
        draw(model)
        return model

    monkeypatch.setattr(kpzoo.data, "load", load, raising=False)
    monkeypatch.setattr(kpzoo, "build", build_tiny, raising=False)
    monkeypatch.setattr(kpzoo, "evaluate", evaluate, raising=False)
    monkeypatch.setattr(training, "run", run)
    runpy.run_path(str(page), run_name="__main__")
    return calls


@pytest.mark.parametrize("arguments", COMMANDS, ids=["plain", "options"])
@pytest.mark.parametrize("old", PAGES, ids=lambda path: path.stem)
def test_a_row_asks_for_what_its_page_asks_for(monkeypatch, capsys, old, arguments):
    (page,) = (table for table in TABLES if old.stem in [run.name for run in table.RUNS])
    before = asked(monkeypatch, old, *arguments)
    after = asked(monkeypatch, Path(page.__file__), old.stem, *arguments)
    assert [call[0] for call in before] == ["load", "load", "seed", "build", "run", "compiled"] + [
        "evaluate",
        "sheet",
        "evaluate",
    ]
    assert after == before


@pytest.mark.parametrize("old", PAGES, ids=lambda path: path.stem)
def test_a_row_has_the_baseline_of_its_page(old):
    (run,) = (run for table in TABLES for run in table.RUNS if run.name == old.stem)
    (call,) = re.findall(r"common\.arguments\((.+)\)", old.read_text())
    assert call == f'__doc__, "{run.name}"' + (f', baseline="{run.baseline}"' if run.baseline else "")


def test_no_row_lacks_a_page():
    assert sorted(run.name for table in TABLES for run in table.RUNS) == sorted(path.stem for path in PAGES)
    assert len(PAGES) == 39
