"""Published weights of other projects: rows, downloads, conversion, and the way from the address to poses."""

import hashlib
import json
import shutil
from collections import OrderedDict
from dataclasses import replace

import h5py
import keras
import numpy as np
import pytest
from conftest import full_disk
from published_server import Server
from test_importers import Fake, with_random_values, write_legacy, write_zip
from test_importers import published as arrays_of
from test_importers import torch as torch_fixture

import kpzoo
from kpzoo import cli, skeletons, weights
from kpzoo.commands.predict import DEFAULT_MODEL
from kpzoo.errors import UserError
from kpzoo.images import write_image
from kpzoo.models import blocks, registry, starts
from kpzoo.skeletons import COCO17
from kpzoo.weights import cache, fetching, load, published
from kpzoo.weights.rows import Trunk, Weights

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
        (dict(weights="simplebaseline_res50.mmpose_coco_256x192"), "are weights of model 'simplebaseline_res50'"),
        (dict(weights="yolox_m.humanart_v1"), "is a person detector"),
        (dict(weights="imagenet"), "No weights 'imagenet' are published for the trunk of model 'hrnet_w32'"),
        (dict(weights="mmpose_mpii_256x256", skeleton="coco17"), "were trained with skeleton 'mpii16'"),
    ],
)
def test_what_is_no_tag_of_the_model_is_refused_before_a_download(arguments, message, server):
    with pytest.raises(UserError, match=message):
        kpzoo.build("hrnet_w32", **arguments)
    assert server.asked == [] and not cache.home().exists()


def test_the_default_weights_are_own_ones_else_those_of_coco_at_the_models_size(monkeypatch):
    own = published.default_tag(DEFAULT_MODEL, (256, 192))
    assert published.ROWS[own].origin == "trained here"
    newer = f"{DEFAULT_MODEL}.another_64x64_v10"
    monkeypatch.setitem(published.ROWS, newer, published.ROWS[own])
    assert published.default_tag(DEFAULT_MODEL, (256, 192)) == kpzoo.info(DEFAULT_MODEL).weights[-1] == newer
    assert published.default_tag("hrnet_w32", (256, 192)) == "hrnet_w32.mmpose_coco_256x192_v1"
    assert published.default_tag("hourglass_corner_1", (256, 256)) == "hourglass_corner_1.mmpose_coco_256x256_v1"
    assert published.default_tag("cpn_res50", (256, 192)) is None
    for name in {row.model for row in published.ROWS.values()}:
        assert published.default_tag(name, registry.spec_of(name).image_hw)


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


@pytest.mark.parametrize("name", FAMILIES)
def test_from_the_address_to_ap(name, server, torch, monkeypatch, shared):
    folder = shared / "data/coco_real"
    if not folder.exists():
        pytest.skip("COCO's pictures are not beside the project")
    data = kpzoo.data.load(annotations=folder / "annotations/mmpose_test_coco.json", images=folder / "images/val")
    expected = serve_mmpose(server, torch, name)
    add_row(monkeypatch, server, "model.pth", name)
    found = kpzoo.evaluate(kpzoo.build(name, weights="noise_64x64"), data)
    again = kpzoo.evaluate(expected, data)
    assert 0 <= found.values["AP"] <= 1 and found.values == again.values
    np.testing.assert_array_equal(found.results.keypoints_image_xy, again.results.keypoints_image_xy)
    assert len(found.results.scores) > 0


def test_one_command_from_the_address_to_drawn_poses(server, torch, monkeypatch, tmp_path, capsys):
    serve_mmpose(server, torch)
    add_row(monkeypatch, server, "model.pth")
    write_image(tmp_path / "photo.jpg", np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8))
    arguments = ["predict", "photo.jpg", "--model", "hrnet_tiny", "--weights", "noise_64x64", "--detector", "whole"]
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments, "--out", "poses"]) == 0
    err = capsys.readouterr().err
    assert "downloaded model.pth" in err and "MB" in err
    assert len(list((tmp_path / "poses").rglob("*.jpg"))) == 1
    assert len(json.loads((tmp_path / "poses/results.json").read_text())) == 1


def test_a_mipnet_starts_from_its_single_instance_model(server, torch, monkeypatch):
    expected = serve_mmpose(server, torch)
    add_row(monkeypatch, server, "model.pth")
    keras.utils.set_random_seed(1)
    model = kpzoo.build("mipnet_hrnet_tiny", weights="hrnet_tiny.noise_64x64")
    theirs = {variable.path: variable.numpy() for variable in expected.variables}
    for variable in model.variables:
        if variable.path in theirs:
            np.testing.assert_array_equal(variable.numpy(), theirs[variable.path])
        else:
            assert "_mimb_" in variable.path
    with pytest.raises(UserError, match="are weights of model 'hrnet_tiny'"):
        kpzoo.build("mipnet_tiny", weights="hrnet_tiny.noise_64x64")


TINY_TRUNK = dict(blocks=(1, 1, 1, 1), widths=(8, 8, 12, 16), bottlenecks=False, stem=8)


def trunk_row(server, file_name, **changes):
    rest = dict(sha256=server.sha256(file_name)[:8], license="test", origin="test")
    return Trunk("tiny", TINY_TRUNK, server.url(file_name), **{**rest, **changes})


@pytest.mark.parametrize("name", ["cpn_tiny", "simplebaseline_tiny", "dilated_tiny", "mipnet_tiny"])
def test_imagenet_starts_the_trunk_of_every_model_that_has_it(name, server, torch, monkeypatch):
    source = with_random_values(kpzoo.build("simplebaseline_tiny", image_hw=HW))
    arrays = {k: v for k, v in arrays_of(source, "hrnet").items() if not k.startswith(("deconv", "final"))}
    state = OrderedDict((key, Fake(value)) for key, value in arrays.items())
    state["fc.weight"] = Fake(np.zeros((1000, 16), np.float32))
    write_legacy(server.folder / "resnet.pth", state, torch)
    row = trunk_row(server, "resnet.pth", source="torchvision", normalization="imagenet_rgb")
    monkeypatch.setitem(published.TRUNKS, "tiny.torchvision_imagenet_v1", row)
    model = kpzoo.build(name, image_hw=HW, weights="imagenet")
    assert model.preset.normalization == "imagenet_rgb"
    theirs = {v.path: v.numpy() for v in source.variables if not v.path.startswith(("deconv", "head", "heatmaps"))}
    ours = {variable.path: variable.numpy() for variable in model.variables}
    assert len(theirs) > 20
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value)


def test_imagenet_keras_takes_the_file_of_keras_applications(server, monkeypatch):
    source = with_random_values(kpzoo.build("simplebaseline_tiny", image_hw=HW))
    with h5py.File(server.folder / "notop.h5", "w") as file:
        for variable in source.variables:
            if key := weights.SOURCES["keras"].key_of(variable.path):
                file[f"{key.split('/')[0]}/{key}:0"] = variable.numpy()
    md5 = hashlib.md5((server.folder / "notop.h5").read_bytes()).hexdigest()
    row = trunk_row(server, "notop.h5", sha256="", md5=md5, source="keras", normalization="caffe_bgr")
    monkeypatch.setitem(published.TRUNKS, "tiny.keras_imagenet_v1", row)
    with pytest.warns(UserWarning, match="strides|halve"):
        model = kpzoo.build("cpn_tiny", image_hw=HW, weights="imagenet_keras")
    assert model.preset.normalization == "caffe_bgr"
    np.testing.assert_array_equal(model.get_layer("stem_conv").kernel, source.get_layer("stem_conv").kernel)
    published.clear(["tiny.keras_imagenet_v1"])
    (server.folder / "notop.h5").write_bytes(b"another file")
    with pytest.raises(UserError, match=f"MD5 differs from {md5}"):
        published.fetch("tiny.keras_imagenet_v1")


def test_a_training_from_nothing_names_the_start_that_would_help(capsys, small_folder, tmp_path):
    arguments = ["train", "--data", str(small_folder), "--val-split", "", "--epochs", "1", "--batch-size", "2"]
    run = ["--model", "hrnet_tiny", "--image-size", "64x64", "--out", str(tmp_path / "run")]
    assert cli.main([*arguments, *run]) == 0
    assert "random weights; none are published for this model and these keypoints" in capsys.readouterr().err
    known = starts.starts_of("hrnet_w32", {}, COCO17, (384, 288))
    assert known[:2] == ["mmpose_coco_384x288", "mmpose_coco_256x192"]
    options = registry.spec_of("cpn_res101").options("cpn_res101", {})
    assert starts.starts_of("cpn_res101", options, COCO17, (256, 192)) == ["imagenet", "imagenet_keras"]
    assert starts.starts_of("mipnet_hrnet_w48", {}, COCO17, (384, 288))[0] == "hrnet_w48.mmpose_coco_384x288"


# Faults of networks, servers and disks


@pytest.fixture
def noise(server, monkeypatch):
    """A row of a file of random bytes, which `published.fetch` brings and nothing reads; returns (tag, bytes)."""
    data = np.random.default_rng(0).bytes(3_000_000)
    (server.folder / "noise.pth").write_bytes(data)
    return add_row(monkeypatch, server, "noise.pth"), data


def test_a_connection_that_is_cut_goes_on_where_it_stopped(server, noise, capsys):
    tag, data = noise
    server.faults += [2_000_000, 503, 500_000]
    assert published.fetch(tag).read_bytes() == data
    begins = [0 if wanted is None else int(wanted[6:-1]) for _, wanted in server.asked]
    assert begins[0] == 0 and all(0 <= 2_000_000 - begin < fetching.CHUNK for begin in begins[1:3])
    assert 0 <= begins[2] + 500_000 - begins[3] < fetching.CHUNK and len(begins) == 4
    assert "next attempt" in capsys.readouterr().err
    assert [path.name for path in cache.home().iterdir() if "part" in path.name] == []


def test_a_download_that_was_stopped_goes_on_in_the_next_process(server, noise, monkeypatch):
    tag, data = noise
    monkeypatch.setattr(fetching, "DELAYS", ())
    server.faults += [1_000_000]
    with pytest.raises(UserError, match="after 1 attempts"):
        published.fetch(tag)
    assert published.fetch(tag).read_bytes() == data
    assert 1_000_000 - fetching.CHUNK < int(server.asked[-1][1][6:-1]) <= 1_000_000


@pytest.mark.parametrize("fault", ["changed", "ignore range"])
def test_the_rest_of_another_file_is_not_appended(fault, server, noise, monkeypatch):
    tag, data = noise
    monkeypatch.setattr(fetching, "DELAYS", ())
    (server.folder / "noise.pth").write_bytes(data[::-1] if fault == "changed" else data)
    server.faults += [1_000_000, None if fault == "changed" else fault]
    with pytest.raises(UserError):
        published.fetch(tag)
    (server.folder / "noise.pth").write_bytes(data)
    assert published.fetch(tag).read_bytes() == data


def test_a_part_that_is_already_whole_needs_no_more_bytes(server, noise):
    tag, data = noise
    cache.home().mkdir()
    (cache.home() / ".noise.pth.part").write_bytes(data)
    assert published.fetch(tag).read_bytes() == data


def test_a_part_with_other_bytes_is_replaced(server, noise):
    tag, data = noise
    cache.home().mkdir()
    (cache.home() / ".noise.pth.part").write_bytes(data[:1000][::-1])
    assert published.fetch(tag).read_bytes() == data


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (404, "HTTP 404"),
        (403, "HTTP 403"),
        ("slow", "no answer in 0.3 s, after 3 attempts"),
        (502, "HTTP 502.*after 3"),
    ],
)
def test_a_server_without_the_file_is_named(fault, reason, server, noise, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.3)
    server.faults += [fault] * 3
    with pytest.raises(UserError, match=f"cannot be downloaded from {server.url('noise.pth')}: {reason}") as error:
        published.fetch(noise[0])
    assert "\n" not in str(error.value) and f"at {cache.home() / 'noise.pth'}" in str(error.value)


def test_a_slow_server_is_tried_again(server, noise, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.3)
    server.faults += ["slow"]
    assert published.fetch(noise[0]).read_bytes() == noise[1]


def test_a_redirect_is_followed(server, noise, monkeypatch):
    tag, data = noise
    server.moved["old.pth"] = server.url("noise.pth")
    monkeypatch.setitem(published.ROWS, tag, replace(published.ROWS[tag], url=server.url("old.pth")))
    assert published.fetch(tag).read_bytes() == data


def test_mirrors_come_first_whether_folders_or_servers(server, noise, monkeypatch, tmp_path):
    tag, data = noise
    monkeypatch.setenv("KPZOO_MIRROR", f"{tmp_path / 'nowhere'} {server.url('mirror')}/ {server.folder}")
    monkeypatch.setitem(published.ROWS, tag, replace(published.ROWS[tag], url="http://127.0.0.1:9/noise.pth"))
    assert published.fetch(tag).read_bytes() == data
    assert [name for name, _ in server.asked] == ["mirror/noise.pth"]  # 404; the folder has it
    published.clear([tag])
    (server.folder / "noise.pth").write_bytes(b"another")
    with pytest.raises(
        UserError, match="nowhere/noise.pth: no such file; .*404.*returned another file: 7 bytes, SHA-256.*127.0.0.1:9"
    ):
        published.fetch(tag)


def test_a_full_disk_is_named_and_the_download_goes_on_after_it(server, noise):
    tag, data = noise
    with full_disk(1_500_000), pytest.raises(UserError, match="Free disk space, or set KPZOO_HOME"):
        published.fetch(tag)
    assert published.fetch(tag).read_bytes() == data
    assert server.asked[-1][1] is not None


def test_a_disk_that_is_too_small_is_told_at_once(server, noise, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match="noise.pth needs 3 MB, and .* has 0 MB of free space"):
        published.fetch(noise[0])


def test_the_first_file_is_remembered_and_a_later_one_that_differs_is_refused(server, noise, monkeypatch, capsys):
    tag, data = noise
    monkeypatch.setitem(published.ROWS, tag, replace(published.ROWS[tag], sha256=""))
    path = published.fetch(tag)
    digest = hashlib.sha256(data).hexdigest()
    assert f"state no digest of noise.pth. The one that came has SHA-256 {digest}" in capsys.readouterr().err
    assert cache.remembered("noise.pth")["sha256"] == digest
    path.unlink()
    (server.folder / "noise.pth").write_bytes(data[::-1])
    with pytest.raises(UserError, match=f"fetched first, on .*, had {digest}. If .*`kpzoo weights clear`"):
        published.fetch(tag)
    published.clear([tag])
    assert published.fetch(tag).read_bytes() == data[::-1]


def test_a_converted_file_that_was_changed_is_not_read(server, torch, monkeypatch):
    expected = serve_mmpose(server, torch)
    tag = add_row(monkeypatch, server, "model.pth")
    twin = published.fetch_ready(tag)
    data = bytearray(twin.read_bytes())
    data[-1] ^= 1
    twin.write_bytes(data)
    assert_same(kpzoo.build("hrnet_tiny", weights=tag), expected)
    assert bytes(data) != twin.read_bytes() and len(server.asked) == 1


def test_a_cache_that_cannot_be_written_is_read(server, noise, monkeypatch):
    tag, data = noise
    path = published.fetch(tag)
    monkeypatch.setattr(type(path), "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "denied")))
    assert published.fetch(tag).read_bytes() == data
    monkeypatch.setenv("KPZOO_HOME", str(path.parent / "other"))
    with pytest.raises(UserError, match="Set KPZOO_HOME to a folder that can be written"):
        published.fetch(tag)


# The command


def test_the_cache_is_listed_verified_and_cleared(server, torch, monkeypatch, capsys):
    serve_mmpose(server, torch)
    tag = add_row(monkeypatch, server, "model.pth")
    assert cli.main(["weights", "list", "hrnet_tiny.*"]) == 0
    assert "authors' figures AP 0.5: AP; annotated boxes. test; not fetched yet" in capsys.readouterr().out
    assert cli.main(["weights", "fetch", "hrnet_tiny.noise_64x64"]) == 0
    assert capsys.readouterr().out.strip() == str(cache.home() / "model.pth.safetensors")
    assert cli.main(["weights", "list", tag, "--json"]) == 0
    size = (server.folder / "model.pth").stat().st_size
    assert json.loads(capsys.readouterr().out)[tag]["bytes"] == size
    assert cli.main(["weights", "verify"]) == 0
    assert capsys.readouterr().out.count(": right") == 2
    monkeypatch.setenv("KPZOO_OFFLINE", "1")
    assert kpzoo.build("hrnet_tiny", weights="noise_64x64").preset.image_hw == HW
    (cache.home() / "model.pth").write_bytes(b"another")
    assert cli.main(["weights", "verify", tag]) == 2
    assert "model.pth: SHA-256 differs" in capsys.readouterr().out
    assert cli.main(["weights", "clear"]) == 2
    assert cli.main(["weights", "clear", tag]) == 0
    assert files_of_the_cache() == set() and cache.remembered("model.pth") == {}
    assert cli.main(["weights", "fetch", tag]) == 2
    assert "KPZOO_OFFLINE is set" in capsys.readouterr().err
    assert cli.main(["weights", "fetch", "hrnet_tiny.nose_64x64"]) == 2
    assert "Did you mean 'hrnet_tiny.noise_64x64_v1'" in capsys.readouterr().err


def test_a_model_is_told_with_its_weights_and_what_they_are_worth(capsys):
    assert cli.main(["models", "hrnet_w48"]) == 0
    out = capsys.readouterr().out
    row = published.ROWS["hrnet_w48.mmpose_coco_384x288_v1"]
    assert f"hrnet_w48.mmpose_coco_384x288_v1: {row}" in out
    assert "AP 0.767" in out and row.metric in out and row.boxes in out and row.license in out
    assert "imagenet" not in out.replace("imagenet_rgb", "")
    assert "imagenet: trunk resnet50 for training" in str(kpzoo.info("cpn_res50"))
