"""Published weights of other projects: rows, downloads, conversion, and the way from the address to poses."""

import json
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from published_server import Server
from test_importers import Fake, with_random_values, write_zip
from test_importers import published as arrays_of
from test_importers import torch as torch_fixture

import kpzoo
from kpzoo import skeletons
from kpzoo.errors import UserError
from kpzoo.models import blocks, registry, starts
from kpzoo.weights import cache, fetching, load, published
from kpzoo.weights.rows import Weights

torch = torch_fixture
HW = (64, 64)
FAMILIES = ("hrnet_tiny", "simplebaseline_tiny", "hourglass_corner_tiny")
# What makes the models of the rows small, for the checks that need no weights of the full size.
SMALL = {
    "hrnet": dict(width=4, stem=8, stem_blocks=1, modules=(1, 1, 1), blocks=1),
    "simplebaseline": dict(blocks=(1, 1, 1, 1), widths=(8, 8, 12, 16), bottlenecks=False, stem=8, deconvs=(8, 8, 8)),
    "hourglass": dict(widths=(8, 8, 12), blocks=(1, 1, 1)),
}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on this machine, and an empty cache."""
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    for name in ("KPZOO_OFFLINE", "KPZOO_MIRROR", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KPZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fetching, "DELAYS", (0, 0))
    yield server
    server.shutdown()
    server.server_close()


def add_row(monkeypatch, server, file_name, model="hrnet_tiny", **changes):
    """Adds the row of a pose checkpoint that the server has, with the first digits of its digest; returns its tag."""
    row = Weights(
        model=model,
        url=server.url(file_name),
        sha256=server.sha256(file_name)[:8],
        image_hw=HW,
        skeleton="coco17",
        options={},
        license="test",
        origin="test",
        recipe="test",
        metrics="",
        normalization="imagenet_rgb",
        codec="hrnet",
        stated={"AP": 0.5},
        metric="AP",
        boxes="annotated boxes",
    )
    tag = f"{model}.noise_64x64_v1"
    monkeypatch.setitem(published.ROWS, tag, replace(row, **changes))
    return tag


class Foreign:
    """An object of another library, as MMPose leaves in its checkpoints."""

    def __reduce__(self):
        return OrderedDict, ([("a", 1)],)


def serve_mmpose(server, torch, model_name="hrnet_tiny", file_name="model.pth", **options):
    """Writes the checkpoint of a random model as MMPose does; returns the model."""
    model = kpzoo.build(model_name, image_hw=HW, normalization="imagenet_rgb", **options)
    with_random_values(model)
    state = OrderedDict((key, Fake(value)) for key, value in arrays_of(model, "mmpose").items())
    state["backbone.bn1.num_batches_tracked"] = Fake(np.array(7), "LongStorage")
    hub = {"runtime_info": Foreign(), "log_scalars": OrderedDict()}
    content = {"meta": {"epoch": 210, "cfg": Foreign()}, "state_dict": state, "message_hub": hub}
    write_zip(server.folder / file_name, content, torch)
    return model


def assert_same(model, expected):
    for ours, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def files_of_the_cache():
    return {path.name for path in cache.home().iterdir() if not path.name.startswith(".")} - {cache.DIGESTS}


# Rows


def test_the_rows_are_those_of_the_projects_pages(shared):
    path = shared / "data/published/published_weights.json"
    if not path.exists():
        pytest.skip("the pages' facts are not beside the project")
    pages = {row["tag"]: row for row in json.loads(path.read_text())}
    rows = published.all_rows()
    assert set(pages) == {tag for tag, row in rows.items() if not row.is_shipped and "keras" not in tag}
    for tag, page in pages.items():
        row = rows[tag]
        assert (row.url, row.sha256, row.license) == (page["url"], page["sha256_prefix"] or "", page["licence"])
        if page["kind"] == "pose":
            names = ("model", "skeleton", "codec", "normalization", "metric", "boxes", "stated")
            assert {name: getattr(row, name) for name in names} == {name: page[name] for name in names}
            assert (list(row.image_hw), row.recipe) == (page["image_hw"], page["source_name"])
        elif page["kind"] == "trunk":
            assert (row.trunk, row.normalization) == (page["trunk"], page["normalization"])
            assert row.options["blocks"] == tuple(page["blocks"])
            assert row.options["bottlenecks"] == (page["block"] == "bottleneck")
        else:
            assert (row.detector, list(row.image_hw)) == (page["detector"], page["image_hw"])


POSES = [tag for tag, row in published.ROWS.items() if not row.is_shipped]


@pytest.mark.parametrize("tag", POSES)
def test_a_pose_row_builds_its_model(tag, monkeypatch):
    """The way of `build`, but for the file, and with few channels: what is given comes from the row."""
    row = published.ROWS[tag]
    monkeypatch.setattr(published, "fetch_ready", str)
    monkeypatch.setattr(registry, "load_weights", lambda *_: load.Report("mmpose", {}))
    spec = registry.spec_of(row.model)
    assert set(row.options) <= set(spec.options(row.model, {}))
    model = kpzoo.build(row.model, weights=tag.removeprefix(f"{row.model}.").removesuffix("_v1"), **SMALL[spec.family])
    preset, skeleton = model.preset, skeletons.get(row.skeleton)
    assert (preset.image_hw, preset.skeleton, preset.codec) == (row.image_hw, skeleton, row.codec)
    assert preset.normalization == row.normalization and row.normalization in blocks.NORMALIZATIONS
    height, width = row.image_hw
    assert model.output["heatmaps"].shape == (None, height // 4, width // 4, skeleton.num_keypoints)
    assert "/" in row.url and len(row.sha256) == 8 and row.license and row.metric and row.boxes and row.stated


@pytest.mark.parametrize("tag", published.TRUNKS)
def test_a_trunk_row_names_models_that_it_starts(tag):
    row = published.TRUNKS[tag]
    word = next(word for word, sources in published.TRUNK_WORDS.items() if row.source in sources)
    depth = int(row.trunk.removeprefix("resnet"))
    options = {} if depth >= 50 else dict(blocks=row.options["blocks"], bottlenecks=False)
    for family in ("simplebaseline", "cpn", "mipnet"):
        name = f"{family}_res{max(depth, 50)}"
        assert starts.tag_of(name, word, registry.spec_of(name).options(name, options)) == tag
    assert row.normalization in blocks.NORMALIZATIONS and row.license and (row.sha256 or row.md5)


@pytest.mark.parametrize("tag", published.DETECTORS)
def test_a_detector_row_has_its_size(tag):
    row = published.DETECTORS[tag]
    assert tag.startswith(f"{row.detector}.") and row.url.endswith(".zip") and row.member.endswith(".onnx")
    assert all(side % 32 == 0 for side in row.image_hw) and row.license


def test_a_tag_may_be_shortened_and_the_newest_version_is_meant(monkeypatch):
    full = "hrnet_w48.mmpose_coco_384x288_v1"
    for text in (full, "hrnet_w48.mmpose_coco_384x288", "mmpose_coco_384x288", "mmpose_coco_384x288_v1"):
        assert published.resolve(text, "hrnet_w48") == full
    assert published.resolve("mmpose_coco_384x288") is None  # of which model?
    for version in (2, 10):
        monkeypatch.setitem(published.ROWS, f"hrnet_w48.mmpose_coco_384x288_v{version}", published.ROWS[full])
    assert published.resolve("mmpose_coco_384x288", "hrnet_w48") == "hrnet_w48.mmpose_coco_384x288_v10"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(weights="mmpose_coco_384x28"), "Unknown weights tag.*Did you mean 'mmpose_coco_384x288'"),
        (dict(weights="hrnet_w32.mmpose_coco_384x28"), "Did you mean 'hrnet_w32.mmpose_coco_384x288_v1'"),
        (dict(weights="simplebaseline_res50.mmpose_coco_256x192"), "belong to 'simplebaseline_res50'"),
        (dict(weights="yolox_m.humanart_v1"), "is a person detector"),
        (dict(weights="imagenet"), "No weights 'imagenet' are published for the trunk of model 'hrnet_w32'"),
        (dict(weights="mmpose_mpii_256x256", skeleton="coco17"), "for the keypoints of 'mpii16'"),
    ],
)
def test_what_is_no_tag_of_the_model_is_refused_before_a_download(arguments, message, server):
    with pytest.raises(UserError, match=message):
        kpzoo.build("hrnet_w32", **arguments)
    assert server.asked == [] and not cache.home().exists()


def test_the_default_weights_are_own_ones_else_those_of_coco_at_the_models_size():
    assert published.default_tag("cpn_nano", (256, 192)) == "cpn_nano.lspet_128x128_v1"
    assert published.default_tag("hrnet_w32", (256, 192)) == "hrnet_w32.mmpose_coco_256x192_v1"
    assert published.default_tag("hourglass_corner_1", (256, 256)) == "hourglass_corner_1.mmpose_coco_256x256_v1"
    assert published.default_tag("cpn_res50", (256, 192)) is None


# From the address to poses


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_of_mmpose_is_fetched_and_converted_once(name, server, torch, monkeypatch):
    expected = serve_mmpose(server, torch, name)
    tag = add_row(monkeypatch, server, "model.pth", name)
    assert_same(kpzoo.build(name, weights="noise_64x64"), expected)
    assert files_of_the_cache() == {"model.pth", "model.pth.safetensors"}
    (cache.home() / "model.pth").write_bytes(b"not read any more")
    assert_same(kpzoo.build(name, weights=tag), expected)
    assert len(server.asked) == 1
