"""The ablation page is generated from its results file, and its verdicts from numbers."""

import argparse
import json
import sys
from pathlib import Path

import keras
import pytest

import kpzoo
from kpzoo import files
from kpzoo.errors import UserError
from kpzoo.models.counting import count_macs
from kpzoo.models.registry import spec_of
from kpzoo.scenes import drawn

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "docs/results/ablations.json", ROOT / "docs/results.md"
sys.path.insert(0, str(ROOT / "recipes"))

import ablation_page  # noqa: E402
import ablations  # noqa: E402


def results(**rows):
    """A results file of rows by their AP; PCK is twice that."""
    one = {"num_params": 1, "macs": 1, "num_train": 1, "num_val": 1}
    return {
        "command": "",
        "settings": {},
        "rows": {
            name: {str(seed): {**one, "AP": ap / 100, "PCK@0.2": ap / 50} for seed, ap in enumerate(aps)}
            for name, aps in rows.items()
        },
    }


@pytest.mark.parametrize(
    ("better", "worse", "freedom", "difference", "noise", "words"),
    [
        ([12.0, 14.0], [10.0, 10.0], 3, 3.0, 3.18, "within noise"),
        ([12.0, 14.0], [10.0, 10.0], 4, 3.0, 2.78, "confirmed"),
        ([10.0, 10.0], [12.0, 14.0], 4, -3.0, 2.78, "not confirmed"),
        ([12.0], [10.0, 10.0, 10.0, 10.0], 25, 2.0, 2.06 * 1.25**0.5, "within noise"),
        ([12.5], [10.0, 10.0, 10.0, 10.0], 25, 2.5, 2.06 * 1.25**0.5, "confirmed"),
        ([12.0], [10.0], 0, 2.0, None, "undecided, with one seed"),
    ],
)
def test_a_verdict_follows_from_means_and_deviation(better, worse, freedom, difference, noise, words):
    found = ablation_page.verdict(better, worse, 1.0, freedom)
    assert found == (pytest.approx(difference), noise and pytest.approx(noise), words)


def test_deviations_are_pooled_over_rows_scored_on_the_same_pictures():
    found = results(cpn=[10.0, 12.0], cpn_l2=[5.0, 5.0, 5.0], globalnet=[50.0], crowd_1=[0.0, 30.0])
    assert ablation_page.seed_deviation(found, "cpn", "AP") == (pytest.approx((2.0 / 3) ** 0.5), 3)  # (2 + 0) / (1 + 2)
    assert ablation_page.seed_deviation(found, "crowd_2", "AP") == (pytest.approx(450**0.5), 1)
    assert ablation_page.seed_deviation(results(cpn=[10.0]), "cpn", "AP") == (0.0, 0)


def test_a_sentence_tells_the_papers_difference_ours_and_the_verdict():
    table, claim = ablation_page.TABLES["table7"], ablation_page.TABLES["table7"].claims[0]
    told = ablation_page.sentence(results(cpn=[12.0, 12.2], cpn_l2=[10.0, 10.2]), table, claim)
    assert "paper +0.8 AP; here +2.0 AP (noise 0.6): **confirmed**" in told
    assert "not measured yet" in ablation_page.sentence(results(cpn=[12.0, 12.2]), table, claim)


def test_a_plot_has_a_dot_for_each_seed_and_each_figure_of_the_paper():
    plot = ablation_page.plot(results(cpn=[12.0, 12.2], cpn_l2=[10.0]), "table7")
    assert plot.count("<circle") == 3 + 5


def test_tables_name_rows_that_are_trained_and_claims_that_the_paper_makes():
    shown = {name for table in ablation_page.TABLES.values() for name in table.rows}
    assert shown == set(ablations.ROWS)
    assert sorted(key for group in ablation_page.ORDER for key in group) == sorted(ablation_page.TABLES)
    for table in ablation_page.TABLES.values():
        for better, worse, _ in table.claims:
            assert table.rows[better][1] > table.rows[worse][1]


@pytest.mark.parametrize("name", ablations.ROWS)
def test_rows_are_networks_of_the_zoo(name):
    row = ablations.ROWS[name]
    for one in (row, ablations.small(row)):
        assert spec_of(one.model).options(one.model, one.options)


def test_the_most_telling_rows_come_first_and_each_once():
    order = list(ablations.work(None, [0, 1]))
    assert {name for name, _ in order} == set(ablations.ROWS)
    assert len(order) == len(set(order))
    last = {name for name, _ in order} - {name for name, seed in order if seed == 1}
    assert last == {
        "cpn_c2",
        "cpn_c2_c3",
        "cpn_c2_c4",
        "cpn_top6",
        "cpn_top10",
        "cpn_top12",
        "cpn_large",
        "cpn_l2_large",
    }
    assert {name for name, _ in order[:10]} == set(ablation_page.TABLES["table7"].rows)
    assert list(ablations.work(["cpn_c2", "table6"], [3])) == [
        (name, 3) for name in ("cpn", "cpn_l2", "cpn_c2", "cpn_top6", "cpn_top10", "cpn_top12")
    ]


def test_an_unmeasured_study_still_makes_a_page():
    told = ablation_page.page({**results(), "settings": dict.fromkeys(
        ("versions", "epochs", "batch_size", "learning_rate", "precision", "augment"), "…"
    )})  # fmt: skip
    assert told.count("not measured yet") == sum(len(table.claims) for table in ablation_page.TABLES.values())


def test_page_and_plots_are_made_of_the_results_file(tmp_path):
    written = ablation_page.write(RESULTS, tmp_path / "results.md")
    assert written.read_bytes() == PAGE.read_bytes()
    for plot in (tmp_path / "images").iterdir():
        assert plot.read_bytes() == (PAGE.parent / "images" / plot.name).read_bytes()


@pytest.mark.parametrize("name", ["resnet", "dilated", "hourglass_1", "hourglass_2", "simplebaseline"])
def test_rivals_of_the_third_table_cost_about_the_same(name):
    def cost(name):
        row = ablations.ROWS[name]
        return count_macs(kpzoo.build(row.model, image_hw=row.image_hw, skeleton="crowdpose14", **row.options))

    assert cost(name) == pytest.approx(cost("cpn"), rel=0.1)


def test_rows_of_different_studies_are_not_mixed(tmp_path, monkeypatch):
    before = {"epochs": 4, "precision": "mixed_bfloat16"}
    monkeypatch.setattr(ablations, "settings", lambda args: {**before, "epochs": args.epochs})
    args = argparse.Namespace(epochs=4, out=tmp_path, results=tmp_path / "results.json")
    (tmp_path / "rows").mkdir()
    row = {"row": "cpn", "seed": 0, "AP": 0.5}
    files.write_json(tmp_path / "rows/cpn_seed0.json", {**row, "settings": before})
    ablations.merge(args)
    files.write_json(tmp_path / "rows/cpn_l2_seed1.json", {**row, "row": "cpn_l2", "seed": 1, "settings": before})
    ablations.merge(args)
    kept = args.results.read_text()
    assert json.loads(kept)["rows"] == {"cpn": {"0": {"AP": 0.5}}, "cpn_l2": {"1": {"AP": 0.5}}}
    with pytest.raises(UserError, match="was made with epochs=4. Received: 1"):
        ablations.merge(argparse.Namespace(**{**vars(args), "epochs": 1}))
    assert args.results.read_text() == kept


def test_all_rows_of_a_process_compute_alike(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(ablations, "merge", lambda args: None)
    monkeypatch.setattr(ablations, "settings", lambda args: {})

    def run(make_model, *args, precision, **how):
        found.append(precision)
        raise KeyboardInterrupt

    monkeypatch.setattr(ablations.training, "run", run)
    drawn.write_drawn(tmp_path / "scenes", 2, split="train")
    drawn.write_drawn(tmp_path / "scenes", 1, split="val")
    args = argparse.Namespace(smoke=False, data=tmp_path / "scenes", out=tmp_path, epochs=1)
    for name in ("cpn", "cpn_l2"):
        with pytest.raises(KeyboardInterrupt):
            ablations.settle(name, 0, args)
        keras.backend.clear_session()  # which forgets Keras' own precision
    assert found == ["mixed_bfloat16"] * 2
