"""Every model of full size has its recipe, each recipe holds together, and the index is made of them."""

import ast
import json
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import kpzoo
from kpzoo.data.augment import AUGMENTS
from kpzoo.evaluation.report import overlap
from kpzoo.losses import default_loss
from kpzoo.models import build, list_models
from kpzoo.models.registry import spec_of
from kpzoo.scenes import drawn
from kpzoo.skeletons import CROWDPOSE14
from kpzoo.training import load_run
from kpzoo.training.summary import read_log

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
INDEX = RECIPES / "README.md"
SMALL = ("tiny", "nano")
PAGES = sorted(path for path in RECIPES.glob("*.py") if re.search(r"_(coco|crowdpose)_\d+x\d+$", path.stem))
SPLITS = {"coco": ("train2017", "val2017"), "crowdpose": ("trainval", "test")}


@pytest.fixture
def common(monkeypatch):
    """What recipes share, with `common.ask(argument, …)`: what a recipe is given by these arguments."""
    monkeypatch.syspath_prepend(str(RECIPES))
    import common

    def ask(*arguments, **options):
        monkeypatch.setattr(sys, "argv", ["recipe", *arguments])
        return common.arguments("", "recipe", **options)

    monkeypatch.setattr(common, "ask", ask, raising=False)
    return common


@cache
def smallest(family):
    return build(f"{family}_tiny", image_hw=(64, 64))


def tiny(name):
    """The smallest model of the same family."""
    return smallest("mipnet" if name.startswith("mipnet_res") else re.sub(r"_(res\d+|w\d+|\d)$", "", name))


@pytest.fixture
def told(monkeypatch, common):
    """What a recipe asks for: calls it with `told(path)`, and returns the arguments of the run, and of the build."""

    def ask(path):
        asked = {}
        monkeypatch.setattr(sys, "argv", [path.name, "--smoke"])
        monkeypatch.setattr(
            common, "train", lambda args, compiled, **run: asked.update(run, args=args, compiled=compiled)
        )
        runpy.run_path(str(path), run_name="__main__")

        def build_small(name, *, image_hw, skeleton, weights, **options):
            spec_of(name).options(name, options)
            asked.update(name=name, image_hw=image_hw, skeleton=skeleton)
            return tiny(name)

        monkeypatch.setattr(kpzoo, "build", build_small)
        for steps in (50, 100):  # of an epoch
            asked["model"] = asked["compiled"](CROWDPOSE14, None, steps)
            asked[steps] = asked["model"].optimizer  # the model is one of its family, compiled again
        return asked

    return ask


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_recipe_trains_what_its_name_says(told, path):
    asked = told(path)
    dataset = "coco" if "_coco_" in path.stem else "crowdpose"
    height, width = asked["image_hw"]
    assert path.stem == f"{asked['name']}_{dataset}_{height}x{width}" == asked["args"].out.name
    assert asked["splits"] == SPLITS[dataset] and asked["augment"] in AUGMENTS
    assert asked.get("protocol", "coco") == dataset and asked["skeleton"] is CROWDPOSE14
    model, epochs = asked["model"], [*range(0, asked["epochs"], 10), asked["epochs"] - 1]
    rates, with_twice_the_batch = (
        [float(asked[steps]._learning_rate(steps * epoch + steps // 2)) for epoch in epochs] for steps in (100, 50)
    )
    assert 2.5e-4 <= rates[0] < 1.01e-3 and rates[-1] < 0.51 * rates[0]  # every schedule falls before its end
    assert with_twice_the_batch == pytest.approx(rates)
    assert ("instance" in model.input) == (type(model.loss).__name__ == "MultiInstanceLoss")


@pytest.mark.parametrize("dataset", SPLITS)
def test_every_model_of_full_size_has_a_recipe(dataset):
    full = {name for name in list_models() if not name.endswith(SMALL)}
    assert {path.stem.split(f"_{dataset}_")[0] for path in PAGES if f"_{dataset}_" in path.stem} == full


def test_recipes_take_a_pack_of_an_object_store_and_weights_by_their_tag(common):
    args = common.ask("--data", "gs://bucket/pack", "--val-data", "gs://bucket/val", "--weights", "cpn.lspet_v1")
    assert (args.data, args.val_data, args.weights) == ("gs://bucket/pack", "gs://bucket/val", "cpn.lspet_v1")


def test_a_recipe_that_goes_on_from_a_baseline_says_so_if_it_is_not_given(common, capsys):
    with pytest.raises(SystemExit):
        common.ask("--data", "coco", baseline="hrnet_w32")
    assert "--weights FILE of a trained hrnet_w32 is needed" in capsys.readouterr().err
    for given, weights in ((["--weights", "none"], None), (["--weights", "w.h5"], "w.h5"), (["--smoke"], None)):
        assert common.ask("--data", "coco", *given, baseline="hrnet_w32").weights == weights
    for path in PAGES:
        is_mipnet = path.stem.startswith("mipnet_")
        assert bool(re.search(r"common\.arguments\(__doc__, \S+, baseline=", path.read_text())) == is_mipnet, path.name


def test_smoke_trains_validates_and_scores_a_model_on_drawn_scenes(common, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common.tempfile, "tempdir", str(tmp_path))

    def compiled(skeleton, weights, steps_per_epoch):
        assert (weights, steps_per_epoch) == (None, common.SMOKE_STEPS)
        model = build("simplebaseline_tiny", image_hw=(64, 64), skeleton=skeleton)
        model.compile("adam", default_loss(model.preset))
        return model

    how = dict(splits=("train2017", "val2017"), batch_size=32, epochs=210, augment="hrnet", crops_per_epoch=60_000)
    common.train(common.ask("--smoke", "--data", "not_there", "--val-data", "nor_here"), compiled, **how)
    (folder,) = tmp_path.glob("kpzoo_smoke_*")
    assert "AP" in capsys.readouterr().out
    (row,) = read_log(folder / "log.csv")
    assert row["epoch"] == "1" and float(row["loss"]) > 0 and 0 <= float(row["val_AP"]) <= 1
    assert load_run(folder).preset.name == "simplebaseline_tiny"


def index() -> str:
    """The index of the recipes, of what their docstrings say and of the results that are committed."""
    text = ["# Recipes\n", "Made of the recipes' first lines and of `docs/results/` by `pytest --accept -k index`.\n"]
    text.append("A recipe is one page: what, command, figures, every number, `fit`. Those for COCO and CrowdPose take")
    text.append("`--data`, `--val-data` (where to validate, if `--data` is a pack), `--out`, `--weights` (MIPNets ask")
    text.append("for their baseline's, or for `none`), `--smoke` (three steps on drawn scenes: minutes on a CPU),")
    text.append("`--batch-size` (the learning rate goes with it), and how steps are made: `--devices`, `--precision`,")
    text.append(
        "`--sync-batch-norm`, `--base-batch`, `--warmup`, `--ema`, `--clip-norm`. A run that was stopped goes on.\n"
    )
    kinds = {"Small, for CPUs": [], "COCO": [], "CrowdPose": []}
    for path in sorted(RECIPES.glob("*.py")):
        if "__main__" not in path.read_text():
            continue  # what recipes share
        if "RUNS = [" in path.read_text():
            continue  # a table of runs
        what, *rest = ast.get_docstring(ast.parse(path.read_text())).split("\n\n")
        said = next((" ".join(part.split()) for part in rest if part.startswith("Measured: ")), "")
        measured, *figures = said.removeprefix("Measured: ").removesuffix(".").split(". ")
        published = next(iter(figures), "")
        kind = "COCO" if "_coco_" in path.stem else "CrowdPose" if "_crowdpose_" in path.stem else "Small, for CPUs"
        what = " ".join(what.split()).removesuffix(".")
        kinds[kind].append(f"| [{path.name}]({path.name}) | {what} | {published} | {results_of(path) or measured} |")
    for kind, rows in kinds.items():
        text += [f"## {kind}\n", "| recipe | what | published | measured here |"]
        text += ["| :-- | :-- | :-- | :-- |", *rows, ""]
    return "\n".join(text)


def test_the_page_of_the_crowd_study_is_made_of_its_results(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    import crowd_study

    results = json.loads((ROOT / "docs/results/crowd_study.json").read_text())
    assert (ROOT / "docs/crowd_study.md").read_text() == crowd_study.page(results)


def test_the_crowd_study_tells_whose_pose_each_answer_is(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    import crowd_study

    likeness = np.array([[0.9, 0.6, 0.0], [0.8, 0.7, 0.0], [0.0, 0.3, 0.5]])  # of the answers to three boxes, to people
    assert crowd_study.whose(likeness).tolist() == ["own", "another", "nobody"]


def test_the_crowd_study_scores_people_who_are_well_seen_and_who_stand(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    import crowd_study

    drawn.write_drawn(tmp_path, 60, crowding=0.9, people=(2, 2))
    data = kpzoo.data.load(tmp_path, "train")
    for chosen, wanted in ((crowd_study.well_seen(data), shows_most), (crowd_study.standing(data), is_upright)):
        persons = data.annotations.persons
        kept = np.isin(persons.image_ids, chosen.annotations.persons.image_ids)
        rows = list(zip(persons.keypoints_image_xy, persons.visibility, strict=True))
        by_hand = np.array([wanted(keypoints, visibility) for keypoints, visibility in rows])
        whole = np.array([by_hand[persons.image_ids == image_id].all() for image_id in persons.image_ids])
        if wanted is shows_most:
            whole &= overlap(data.annotations)[persons.image_index] >= 0.5
        assert kept.tolist() == whole.tolist()
        assert 0 < kept.sum() < len(kept)
        assert len(chosen.annotations.persons.ids) == kept.sum()


def shows_most(keypoints_xy: np.ndarray, visibility: np.ndarray) -> bool:
    return (visibility == 2).sum() >= 0.6 * (visibility > 0).sum()


def is_upright(keypoints_xy: np.ndarray, visibility: np.ndarray) -> bool:
    """Whether the torso is within 40 degrees of the vertical, the legs within 50, of COCO's 17 keypoints."""
    shoulders, hips, ankles = ((keypoints_xy[i] + keypoints_xy[i + 1]) / 2 for i in (5, 11, 15))
    if not (visibility[[5, 6, 11, 12, 15, 16]] > 0).all():
        return False
    leanings = [np.degrees(np.arctan2(abs(down[0]), down[1])) for down in (hips - shoulders, ankles - hips)]
    return leanings[0] < 40 and leanings[1] < 50


def results_of(path: Path) -> str:
    """What is committed of a recipe's results, as a link."""
    found = ROOT / "docs/results" / f"{path.stem}.json"
    if not found.exists():
        return ""
    values = json.loads(found.read_text())
    values = values.get("metrics", values)
    figures = [f"{100 * values[key]:.1f} {key}" for key in ("AP", "PCK@0.2") if key in values]
    return f"[{', '.join(figures) or 'figures'}](../docs/results/{found.name})"


def test_the_index_is_made_of_the_recipes(accept):
    if accept:
        INDEX.write_text(index())
    assert INDEX.read_text() == index(), "to accept, run `pytest --accept -k index`"
