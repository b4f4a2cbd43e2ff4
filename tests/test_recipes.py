"""Every full-size model has a run on each data set, each row is consistent, the index is generated from the rows."""

import ast
import importlib
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
from kpzoo.training import defaults_of, load_run
from kpzoo.training.summary import read_log

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
INDEX = RECIPES / "README.md"
SMALL = ("tiny", "nano", "lite0")
SPLITS = {"coco": ("train2017", "val2017"), "crowdpose": ("trainval", "test")}

sys.path.insert(0, str(RECIPES))
import common  # noqa: E402
from common import COCO, Run  # noqa: E402

TABLES = {path: "common.main(" in path.read_text() for path in sorted(RECIPES.glob("*.py"))}  # or a page of one run
PAGES = [importlib.import_module(path.stem) for path, is_table in TABLES.items() if is_table]
RUNS = [(page, run) for page in PAGES for run in page.RUNS]
each_run = pytest.mark.parametrize(("page", "run"), RUNS, ids=[run.name for _, run in RUNS])
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
SMALL_RUN = Run("simplebaseline_tiny", COCO, (64, 64), 32, 1e-3, 210, (), "hrnet", crops_per_epoch=60_000)


@cache
def tiny(model):
    """The smallest model of the same family."""
    family = "mipnet" if model.startswith("mipnet_res") else re.sub(r"_(res\d+|w\d+|\d)$", "", model)
    return build(f"{family}_tiny", image_hw=(64, 64))


@pytest.fixture
def parsed(monkeypatch):
    """`parsed(run, argument, …)`: the options of a command that names the run."""

    def parse(run, *arguments):
        monkeypatch.setattr(sys, "argv", ["page.py", run.name, *arguments])
        found, args = common.parse("", [SMALL_RUN, run])
        assert found is run
        return args

    return parse


@each_run
def test_a_run_uses_the_splits_and_the_protocol_of_its_data(page, run):
    height, width = run.image_hw
    assert run.name == f"{run.model}_{run.data.name}_{height}x{width}"
    assert run.data.splits == SPLITS[run.data.name] and run.data.protocol == run.data.name
    assert run.augment in AUGMENTS
    spec_of(run.model).options(run.model, run.options)


@each_run
def test_the_schedule_of_a_run_falls_before_its_end_and_follows_the_steps_of_an_epoch(page, run):
    epochs, optimizers = [*range(0, run.epochs, 10), run.epochs - 1], {}
    for steps in (50, 100):  # of an epoch; the model is one of the family, compiled again
        optimizers[steps] = page.compiled(run, tiny(run.model), steps).optimizer
    rates, with_twice_the_batch = (
        [float(optimizers[steps]._learning_rate(steps * epoch + steps // 2)) for epoch in epochs] for steps in (100, 50)
    )
    assert rates[0] == pytest.approx(run.learning_rate) and 2.5e-4 <= run.learning_rate <= 1e-3
    assert rates[-1] < 0.51 * rates[0]
    assert with_twice_the_batch == pytest.approx(rates)


@each_run
def test_the_defaults_of_kpzoo_train_are_those_of_the_coco_runs(page, run):
    if run.data is not COCO:
        return
    model, defaults = page.compiled(run, tiny(run.model), 100), defaults_of(run.model)
    assert (defaults.learning_rate, defaults.augment) == (run.learning_rate, run.augment)
    assert type(defaults.make_optimizer(1000)) is type(model.optimizer)
    config = {**default_loss(model.preset).get_config(), "name": None}
    assert config == {**model.loss.get_config(), "name": None}
    if (
        run.drops and run.model != "mipnet_hrnet_w32"
    ):  # which has the schedule of HRNet, the authors' W48 that of MIPNet
        assert defaults.drops(run.epochs) == list(run.drops)
    if not run.drops:  # 60 of 350 epochs
        assert len(defaults.drops(350 * 1875)) == 5
        assert defaults.drops(350 * 1875)[0] == pytest.approx(60 * 1875, rel=0.03)


@each_run
def test_mipnets_and_only_they_learn_several_instances_from_the_weights_of_a_baseline(page, run):
    model = page.compiled(run, tiny(run.model), 10)
    is_mipnet = run.model.startswith("mipnet_")
    assert (type(model.loss).__name__ == "MultiInstanceLoss") == ("instance" in model.input) == is_mipnet
    assert (run.baseline is not None) == is_mipnet
    if is_mipnet:  # another row trains the baseline, on the same data at the same size
        trained = [(other.model, other.data, other.image_hw) for _, other in RUNS]
        assert (run.baseline, run.data, run.image_hw) in trained


@pytest.mark.parametrize("dataset", SPLITS)
def test_every_model_of_full_size_has_a_run(dataset):
    full = {name for name in list_models() if not name.endswith(SMALL) and not name.startswith("person_")}
    assert {run.model for _, run in RUNS if run.data.name == dataset} == full


def test_no_two_runs_have_the_same_name():
    names = [run.name for _, run in RUNS]
    assert len(set(names)) == len(names)


@each_page
def test_a_page_states_the_sources_of_published_figures_and_whether_any_run_was_measured(page):
    listed = [text[:3] for text in common.sources(page.__doc__)]
    published = [run.published for run in page.RUNS if run.published != "none"]
    assert all(re.fullmatch(r"-?\d\d?\.\d \[\d\]", text) for text in published)
    assert listed == sorted({text[-3:] for text in published})
    measured = any(results_of(run.name) for run in page.RUNS)
    assert ("None of the runs has been trained at full length." in page.__doc__) == (not measured)


@each_page
def test_a_page_without_arguments_lists_its_runs(page, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [page.__file__])
    runpy.run_path(page.__file__, run_name="__main__")
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith("run ")
    assert [line.split()[0] for line in lines[: len(page.RUNS)]] == [run.name for run in page.RUNS]
    assert lines[len(page.RUNS) :] == ["", *common.sources(page.__doc__)]


MIPNET = next(run for _, run in RUNS if run.model == "mipnet_hrnet_w32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["mipnet_hrnet_w32"],
            "Unknown run. Received: 'mipnet_hrnet_w32'. Did you mean 'mipnet_hrnet_w32_coco_256x192'",
        ),
        (["--smoke"], "NAME is missing"),
        ([SMALL_RUN.name], "--data FOLDER is missing. Use --smoke"),
        ([MIPNET.name, "--data", "coco"], "--weights FILE is missing: .* a trained hrnet_w32. Use --weights none"),
        ([SMALL_RUN.name, "--data", "not_there"], "not_there"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pages/mipnet.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        common.main("", [SMALL_RUN, MIPNET], None)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"mipnet.py: error: .*{message}", line)


def test_a_run_takes_a_pack_of_an_object_store_and_weights_by_their_tag(parsed):
    args = parsed(MIPNET, "--data", "gs://bucket/pack", "--val-data", "gs://bucket/val", "--weights", "cpn.lspet_v1")
    assert (args.data, args.val_data, args.weights) == ("gs://bucket/pack", "gs://bucket/val", "cpn.lspet_v1")
    assert args.out == Path("runs") / MIPNET.name
    assert parsed(MIPNET, "--smoke", "--out", "elsewhere").out == Path("elsewhere")


def test_a_run_with_a_baseline_starts_without_it_on_request(parsed):
    for given, weights in ((["--weights", "none"], None), (["--weights", "w.h5"], "w.h5"), (["--smoke"], None)):
        assert parsed(MIPNET, "--data", "coco", *given).weights == weights


def test_smoke_trains_validates_and_scores_a_model_on_drawn_scenes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common.tempfile, "tempdir", str(tmp_path))

    def compiled(run, model, steps_per_epoch):
        assert (run.name, steps_per_epoch) == (SMALL_RUN.name, common.SMOKE_STEPS)
        model.compile("adam", default_loss(model.preset))
        return model

    wrong = ["--data", "not_there", "--val-data", "nor_here", "--weights", "nor_this"]
    monkeypatch.setattr(sys, "argv", ["page.py", SMALL_RUN.name, "--smoke", *wrong])
    common.main("", [SMALL_RUN], compiled)
    (folder,) = tmp_path.glob("kpzoo_smoke_*")
    assert "AP" in capsys.readouterr().out
    (row,) = read_log(folder / "log.csv")
    assert row["epoch"] == "1" and float(row["loss"]) > 0 and 0 <= float(row["val_AP"]) <= 1
    preset = load_run(folder).preset
    assert (preset.name, preset.image_hw) == ("simplebaseline_tiny", (64, 64))


INTRODUCTION = """# Recipes

Generated from the pages and from `docs/results/` by `pytest --accept -k index`.

The pages `cpn.py`, `hrnet.py` and `mipnet.py` train every model on COCO and on CrowdPose. Each has a table with one row
per training run; an interrupted run is resumed:

```shell
python recipes/hrnet.py                                            # lists the runs of the page
python recipes/hrnet.py hrnet_w32_coco_256x192 --data ~/coco       # trains a run
python recipes/hrnet.py hrnet_w32_coco_256x192 --smoke             # tests it: three steps on generated images
```

Options:

* `--data`, `--val-data` (validation data, if `--data` is a pack), `--out` (run folder, default `runs/NAME`)
* `--weights`: initial weights; required by MIPNets, which start from a trained baseline (`none` for random weights)
* `--batch-size`: the learning rate is scaled in proportion
* `--devices`, `--precision`, `--sync-batch-norm`, `--base-batch`, `--warmup`, `--ema`, `--clip-norm`: see `--help`
"""


def index() -> str:
    """The index of the recipes, from their docstrings and rows and from the committed results."""
    text = [INTRODUCTION, "## Small models, on a CPU\n", "| recipe | what | measured here |", "| :-- | :-- | :-- |"]
    for path, is_table in TABLES.items():
        if is_table or "__main__" not in path.read_text():
            continue
        what = " ".join(first_paragraph(path).split()).removesuffix(".")
        text.append(f"| [{path.name}]({path.name}) | {what} | {results_of(path.stem)} |")
    for page in PAGES:
        path = Path(page.__file__)
        heading, *rows = common.table(page.RUNS)
        text += [f"\n## [{path.name}]({path.name})\n", first_paragraph(path) + "\n"]
        text += [f"| {' | '.join(heading)} | measured here |", "| :-- " * (len(heading) + 1) + "|"]
        for run, row in zip(page.RUNS, rows, strict=True):
            text.append(f"| {' | '.join(row)} | {results_of(run.name) or 'not trained at full length'} |")
        text += ["", *(f"* {source}" for source in common.sources(page.__doc__))]
    return "\n".join(text) + "\n"


def first_paragraph(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())).split("\n\n")[0]


def test_the_page_of_the_crowd_study_is_made_of_its_results(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    import crowd_study

    results = json.loads((ROOT / "docs/results/crowd_study.json").read_text())
    assert (ROOT / "docs/crowd_study.md").read_text() == crowd_study.page(results)


def test_the_crowd_study_matches_each_prediction_to_a_person(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    import crowd_study

    likeness = np.array([[0.9, 0.6, 0.0], [0.8, 0.7, 0.0], [0.0, 0.3, 0.5]])  # OKS of three boxes' poses with people
    assert crowd_study.matches(likeness).tolist() == ["own", "another", "none"]


def test_the_crowd_study_selects_images_of_visible_and_of_standing_people(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    import crowd_study

    drawn.write_drawn(tmp_path, 60, crowding=0.9, people=(2, 2))
    data = kpzoo.data.load(tmp_path, "train")
    for chosen, wanted in ((crowd_study.mostly_visible(data), shows_most), (crowd_study.standing(data), is_upright)):
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


def results_of(name: str) -> str:
    """A link to the committed results of a run."""
    found = ROOT / "docs/results" / f"{name}.json"
    if not found.exists():
        return ""
    values = json.loads(found.read_text())
    values = values.get("metrics", values)
    figures = [f"{100 * values[key]:.1f} {key}" for key in ("AP", "PCK@0.2") if key in values]
    return f"[{', '.join(figures) or 'figures'}](../docs/results/{found.name})"


def test_the_index_is_generated_from_the_recipes(accept):
    if accept:
        INDEX.write_text(index())
    assert INDEX.read_text() == index(), "to accept, run `pytest --accept -k index`"
