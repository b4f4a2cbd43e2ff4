"""Image names and paths as other systems write them: found on disk, or refused with the searched folders."""

import json
import unicodedata
import urllib.parse

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reliability_rows import row
from test_coco import annotation, content, write
from test_images import encoded

import kpzoo
from kpzoo import cli, images, training
from kpzoo.data import check, image_files, loading, repair
from kpzoo.data.coco import read_annotations
from kpzoo.data.image_files import Listing, names_on_disk
from kpzoo.data.results import read_boxes
from kpzoo.errors import UserError
from kpzoo.inference import detectors


def folder_of(tmp_path, names, on_disk, split="train"):
    """A data set whose annotations name images by `names`, and whose images lie at `on_disk` below its folder."""
    data = content()
    data["images"] = [dict(id=k + 1, file_name=name, height=60, width=80) for k, name in enumerate(names)]
    data["annotations"] = [annotation(k + 1, k + 1, bbox=[10, 10, 30, 40]) for k in range(len(names))]
    (tmp_path / "annotations").mkdir(parents=True, exist_ok=True)
    write(tmp_path / "annotations", data, f"{split}.json")
    for name in on_disk:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(path.suffix.lower(), np.full((60, 80, 3), 40, np.uint8)))
    return tmp_path


NFC, NFD = (unicodedata.normalize(form, "Müller é.jpg") for form in ("NFC", "NFD"))
OTHERWISE = {
    "backslash": ("train\\a.jpg", "images/train/a.jpg"),
    "two backslashes": ("images\\train\\a.jpg", "images/train/a.jpg"),
    "suffix in upper case": ("a.jpg", "images/a.JPG"),
    "name in lower case": ("IMG_1.JPG", "images/img_1.jpg"),
    "folder in other case": ("Train/a.jpg", "images/train/a.jpg"),
    "code for a space": ("my%20photo.jpg", "images/my photo.jpg"),
    "codes in UTF-8": (urllib.parse.quote("грач.jpg"), "images/грач.jpg"),
    "code twice": ("my%2520photo.jpg", "images/my photo.jpg"),
    "all at once": ("Sub\\My%20Photo.jpg", "images/sub/my photo.JPG"),
    "accents of macOS": (NFC, f"images/{NFD}"),
    "accents of others": (NFD, f"images/{NFC}"),
    "code for a slash": ("train%2Fa.jpg", "images/train/a.jpg"),
    "dot in front": (".\\a.jpg", "images/a.jpg"),
}


@row(
    85,
    "File names with backslashes, in another case, with codes such as %20, or in another Unicode form",
    "Warning if exactly one file matches, else an error with the paths that were searched",
)
@pytest.mark.parametrize("case", OTHERWISE)
def test_a_name_of_another_system_is_found_and_told(tmp_path, case):
    name, on_disk = OTHERWISE[case]
    folder_of(tmp_path, [name], [on_disk])
    with pytest.warns(UserWarning, match="spelt differently on disk"):
        data = loading.load(tmp_path, "train")
    (path,) = data.image_paths([1])
    assert images.read_image(path).shape == (60, 80, 3)
    with pytest.raises(UserError, match="spelt differently on disk.*This is an error because of `strict=True`"):
        loading.load(tmp_path, "train", strict=True)
    (found,) = check.check(tmp_path)
    assert not found.clean and not any(isinstance(one, str) for one in found.decoded.values())
    repair.write_repaired(found, tmp_path / "mended")
    (again,) = check.check(tmp_path / "mended")
    assert again.clean, str(again)


def test_a_name_that_is_there_means_itself_whatever_else_it_could_mean(tmp_path):
    names = ["my%20photo.jpg", "a.jpg", "A.jpg", "sub\\b.jpg"]
    folder_of(tmp_path, names, [f"images/{name}" for name in [*names, "my photo.jpg", "sub/b.jpg"]])
    data = loading.load(tmp_path, "train", strict=True)
    assert data.annotations.file_names == names


def test_of_several_files_that_are_meant_none_is_taken(tmp_path):
    for name in ("a.jpg", "A.jpg", "b.jpg"):
        (tmp_path / name).touch()
    assert names_on_disk(tmp_path, ["a.JPG"]).renamed == {}  # a.jpg or A.jpg
    assert names_on_disk(tmp_path, ["B.jpg", "b.JPG"]).renamed == {}  # two images of one file
    assert names_on_disk(tmp_path, ["B.jpg", "b.jpg"]).renamed == {}  # b.jpg is the other one's
    assert names_on_disk(tmp_path, ["B.jpg"]).renamed == {"B.jpg": "b.jpg"}


@pytest.mark.parametrize(
    "name", ["%2e%2e/secret.jpg", "..\\secret.jpg", "%2Fetc/secret.jpg", "sub%5C..%5C..%5Csecret.jpg"]
)
def test_codes_do_not_lead_out_of_the_folder(tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.jpg").touch()
    assert names_on_disk(tmp_path / "images", [name]).renamed == {}


@given(
    parts=st.lists(
        st.text("aBcß é%日_- ", min_size=1, max_size=6).filter(lambda part: part.strip(" .")), min_size=1, max_size=3
    ),
    spoil=st.lists(st.sampled_from(["quote", "backslash", "upper", "NFD"]), max_size=3, unique=True),
)
def test_any_name_that_was_spelt_otherwise_is_found_again(tmp_path_factory, parts, spoil):
    folder = tmp_path_factory.mktemp("names")
    name = "/".join(parts) + ".jpg"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    spelt = name
    for how in spoil:
        if how == "quote" and "%" not in name:
            spelt = urllib.parse.quote(spelt, safe="/\\")
        elif how == "backslash":
            spelt = spelt.replace("/", "\\")
        elif how == "upper" and "%" not in spelt and spelt.upper().casefold() == spelt.casefold():
            spelt = spelt.upper()
        elif how == "NFD" and "%" not in spelt:
            spelt = unicodedata.normalize("NFD", spelt)
    if "%" in name and spelt != name:
        return  # what is a code in it, and what is not, cannot be known
    assert names_on_disk(folder, [spelt]).file_names in ([name], [spelt] if Listing(folder).has(spelt) else [name])


def test_the_folder_is_chosen_by_all_names_and_not_by_the_first(tmp_path):
    names = [f"{k}.jpg" for k in range(30)]
    folder_of(tmp_path, names, [f"images/b/{name}" for name in names[25:]] + ["images/a/99.jpg"])
    data = loading.load(tmp_path, "train")
    assert data.image_folder == tmp_path / "images/b"
    folder_of(tmp_path, names, [f"images/c/{name}" for name in names[3:]])
    assert loading.load(tmp_path, "train").image_folder == tmp_path / "images/c"
    folder_of(tmp_path, names, ["images/train/7.jpg"])  # the folder of the split comes first
    assert loading.load(tmp_path, "train").image_folder == tmp_path / "images/train"


def test_what_was_looked_for_is_told_with_the_nearest_file(tmp_path):
    folder_of(tmp_path, ["IMG_0001.jpg", "IMG_0002.jpg"], ["images/IMG-0001.png"])
    with pytest.raises(UserError) as error:
        loading.load(tmp_path, "train")
    told = str(error.value)
    assert (
        "None of the 2 images of" in told
        and "such as 'IMG_0001.jpg'" in told
        and "'images' holds 'IMG-0001.png'" in told
    )
    assert "Looked in ['images', '.', 'annotations']" in told and told.endswith("Pass the folder as `images=`.")


READING = {  # commands that read the annotations of the folder {0}/data
    "check": "data check {0}/data",
    "train": "train --model cpn_tiny --data {0}/data --val-split= --out {0}/run",
    "pack": "data pack {0}/data {0}/pack",
    "show": "data show {0}/data --out {0}/sheet.png",
    "compose": "data compose {0}/data {0}/crowds",
    "evaluate": "evaluate --annotations {0}/data/annotations/train.json --results {0}/results.json",
}


@pytest.mark.parametrize("command", [name for name in READING if name != "evaluate"])
def test_every_command_that_reads_annotations_takes_the_folder_of_the_images(tmp_path, capsys, command):
    folder_of(tmp_path / "data", ["a.jpg"], [])
    option = "--pictures" if command in ("show", "compose") else "--images"
    arguments = READING[command].format(tmp_path).split()
    assert cli.main(arguments) == 2
    assert f"Pass the folder as {option}." in capsys.readouterr().err
    assert cli.main([*arguments, option, str(tmp_path / "nowhere")]) == 2
    assert f"The image folder '{tmp_path / 'nowhere'}'" in capsys.readouterr().err


@row(
    83,
    "Several categories with keypoints, at the command line",
    "Error with their names; all commands that read annotations have --category",
)
@pytest.mark.parametrize("command", READING)
def test_every_command_that_reads_annotations_can_choose_the_category(tmp_path, capsys, command):
    folder_of(tmp_path / "data", ["a.jpg"], ["images/a.jpg"])
    path = tmp_path / "data/annotations/train.json"
    data = json.loads(path.read_text())
    data["categories"].append(dict(id=2, name="racket", keypoints=["tip", "throat", "butt"]))
    path.write_text(json.dumps(data))
    (tmp_path / "results.json").write_text("[]")
    arguments = READING[command].format(tmp_path).split()
    assert cli.main(arguments) == 2
    assert "Choose one, such as --category person." in capsys.readouterr().err
    assert cli.main([*arguments, "--category", "rackett"]) == 2
    assert "Did you mean 'racket'" in capsys.readouterr().err


def test_training_without_validation_data_says_how(tmp_path, capsys):
    folder_of(tmp_path / "data", ["a.jpg"], ["images/a.jpg"])
    assert cli.main([word for word in READING["train"].format(tmp_path).split() if word != "--val-split="]) == 2
    assert "use --val-split ''." in capsys.readouterr().err


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@row(
    86,
    "A path that starts with ~",
    "Expanded to the home folder, at the command line and in Python",
)
def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(home):
    folder_of(home / "data", ["a.jpg"], ["data/../images/a.jpg", "images/a.jpg"])
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    data = loading.load(annotations="~/data/annotations/train.json", images="~/data/images")
    assert data.image_folder == home / "data/images" and "~" not in data.annotations.path
    assert kpzoo.save_weights(model, "~/w.weights.h5") == home / "w.weights.h5"
    kpzoo.load_weights(model, "~/w.weights.h5")
    kpzoo.build("cpn_tiny", image_hw=(64, 64), weights="~/w.weights.h5")
    (home / "boxes.json").write_text(json.dumps([dict(image_id=1, category_id=1, bbox=[1, 2, 30, 40], score=0.5)]))
    assert len(read_boxes("~/boxes.json", data.annotations).scores) == 1
    assert detectors.get("~/boxes.json").detect([np.zeros((60, 80, 3), np.uint8)], [1])[0][0].shape == (1, 4)
    for path, call in {
        "no.json": lambda path: read_annotations(path),
        "no.weights.h5": lambda path: kpzoo.load_weights(model, path),
        "no": lambda path: training.load_run(path),
        "no.onnx": lambda path: detectors.get(path).detect([np.zeros((60, 80, 3), np.uint8)]),
        "boxes-no.json": lambda path: detectors.get(path).detect([np.zeros((60, 80, 3), np.uint8)], [1]),
    }.items():
        with pytest.raises(UserError) as error:
            call(f"~/{path}")
        assert f"{home}/{path}" in str(error.value) and "~" not in str(error.value)


def test_a_tilde_behind_an_equals_sign_is_expanded_by_the_command(home, capsys):
    assert cli.main(["data", "make", "~/scenes", "--images=1"]) == 0
    assert (home / "scenes/images/train/000000000001.jpg").exists()
    assert cli.main(["train", "--model=cpn_tiny", "--data=~/scenes", "--val-split=", "--out=~/run", "--resume"]) == 2
    assert f"{home}/run" in capsys.readouterr().err


def test_a_name_with_a_tilde_is_outside_unless_that_is_allowed(home):
    folder_of(home / "data", ["~/far/a.jpg"], ["../far/a.jpg"])
    with pytest.raises(UserError, match="outside the image folder.*`allow_outside=True`"):
        loading.load(home / "data", "train")
    data = loading.load(home / "data", "train", allow_outside=True)
    assert images.read_image(data.image_paths([1])[0]).shape == (60, 80, 3)


def test_listing_reads_each_folder_once(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    names = [f"sub/{k}.jpg" for k in range(50)]
    for name in names[:25]:
        (tmp_path / name).touch()
    read = []
    listdir = image_files.os.listdir
    monkeypatch.setattr(image_files.os, "listdir", lambda path: read.append(str(path)) or listdir(path))
    listing = Listing(tmp_path)
    assert sum(map(listing.has, names)) == 25
    assert read == [str(tmp_path / "sub")]
