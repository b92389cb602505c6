"""Folders of pictures: what is accepted, how it is labelled, and what a refusal says."""

import errno
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from canvit_gym.preprocess import PictureStorageError, UnreadablePictureError
from canvit_gym.scenes import folder
from canvit_gym.scenes.base import Scenes
from canvit_gym.scenes.folder import FolderScenes
from canvit_gym.scenes.imagenet import CLASS_NAMES, LABEL_OF_WNID, WNIDS
from canvit_gym.scenes.stored import split_of

TENCH, TABBY, ESPRESSO, TOILET_TISSUE = "n01440764", "n02123045", "n07920052", "n15075141"


def put(path: Path, colour: tuple[int, int, int] = (9, 9, 9), *, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)
    return path


def put_truncated(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-800])
    return path


def test_imagenet_table_is_the_standard_one() -> None:
    assert len(WNIDS) == len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 1000
    assert list(WNIDS) == sorted(set(WNIDS))
    known = {TENCH: (0, "tench"), TABBY: (281, "tabby"), ESPRESSO: (967, "espresso")}
    for wnid, (label, name) in (known | {TOILET_TISSUE: (999, "toilet tissue")}).items():
        assert LABEL_OF_WNID[wnid] == label and CLASS_NAMES[label] == name


def test_imagenet_names_agree_with_torchvision() -> None:
    # The position of a name is the id that published classifiers predict.
    meta = pytest.importorskip("torchvision.models._meta")
    different = [
        label
        for label, (ours, theirs) in enumerate(
            zip(CLASS_NAMES, meta._IMAGENET_CATEGORIES, strict=True)
        )
        if ours != theirs
    ]
    assert different == [134, 517, 639]  # crane, crane and maillot: told apart in brackets


def test_some_wnid_folders_keep_their_imagenet_ids(tmp_path: Path) -> None:
    for wnid in (ESPRESSO, TENCH, TABBY):
        put(tmp_path / wnid / "ILSVRC2012_val_00000001.JPEG")
    scenes: Scenes = FolderScenes(tmp_path, size_px=16)
    assert [scenes[i].label for i in range(len(scenes))] == [0, 281, 967]
    assert scenes.class_names == CLASS_NAMES
    assert scenes.mask_class_names == ()


def test_other_names_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    for name in ("dog/b.png", "dog/a.jpg", "cat/z.webp", "Ape/q.PNG"):
        put(tmp_path / name)
    scenes = FolderScenes(tmp_path, size_px=16)
    assert scenes.class_names == ("Ape", "cat", "dog")
    assert [(scenes[i].name, scenes[i].label) for i in range(len(scenes))] == [
        ("Ape/q.PNG", 0),
        ("cat/z.webp", 1),
        ("dog/a.jpg", 2),
        ("dog/b.png", 2),
    ]


def test_a_scene_is_the_square_picture_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:10] = 255  # top half white
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "wide.png")
    scene = FolderScenes(tmp_path, size_px=20)[0]
    assert scene.picture.shape == (20, 20, 3) and scene.picture.dtype == np.uint8
    assert (scene.picture == pixels[:, 20:40]).all()
    assert scene.mask is None and scene.target is None and scene.objects == ()


def test_equal_to_itself_after_pickling_and_bounded(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png", (1, 2, 3))
    put(tmp_path / "a" / "2.png", (4, 5, 6))
    scenes = pickle.loads(pickle.dumps(FolderScenes(tmp_path, size_px=8)))
    assert [scenes[i].picture[0, 0].tolist() for i in range(2)] == [[1, 2, 3], [4, 5, 6]]
    for index in (2, -1):
        with pytest.raises(IndexError, match=r"scenes 0 \.\. 1"):
            scenes[index]


def test_hidden_files_other_files_and_hidden_folders_are_ignored(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "._1.png").write_bytes(b"left by macOS")
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    (tmp_path / "labels.csv").write_text("name,label")
    (tmp_path / ".cache").mkdir()
    assert FolderScenes(tmp_path).names == ("a/1.png",)


def test_splits_part_the_pictures_and_do_not_depend_on_the_others(tmp_path: Path) -> None:
    source = put(tmp_path / "a" / "000.png")
    for number in range(1, 60):
        (tmp_path / "a" / f"{number:03}.png").write_bytes(source.read_bytes())
    whole = FolderScenes(tmp_path).names
    train = FolderScenes(tmp_path, split="train").names
    test = FolderScenes(tmp_path, split="test").names
    assert len(whole) == 60 and sorted(train + test) == list(whole)
    assert 3 <= len(test) <= 24
    (tmp_path / "a" / train[0][2:]).unlink()
    assert FolderScenes(tmp_path, split="test").names == test


def test_the_split_of_a_name_never_changes() -> None:
    # Reported results depend on it: written down once, the same on every machine and version.
    names = [f"{TENCH}/ILSVRC2012_val_{number:08}.JPEG" for number in range(20)]
    test = [number for number, name in enumerate(names) if split_of(name) == "test"]
    assert test == [0, 2, 9, 10, 13, 14]
    share = sum(split_of(f"x/{number}.jpg") == "test" for number in range(5000)) / 5000
    assert 0.18 < share < 0.22


def test_a_split_without_pictures_says_so(tmp_path: Path) -> None:
    name = next(f"{n}.png" for n in range(99) if split_of(f"a/{n}.png") == "train")
    put(tmp_path / "a" / name)
    with pytest.raises(ValueError, match='None of the 1 pictures .* split "test"; .*"all"'):
        FolderScenes(tmp_path, split="test")


@pytest.mark.parametrize("options", [{"split": "val"}, {"size_px": 0}])
def test_wrong_options_are_refused(tmp_path: Path, options: dict) -> None:
    put(tmp_path / "a" / "1.png")
    with pytest.raises(ValueError, match=next(iter(options))):
        FolderScenes(tmp_path, **options)


LAYOUT = "accepted is <folder>/<class>/<picture>"


def test_a_missing_folder_a_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no folder .*nowhere; {LAYOUT}"):
        FolderScenes(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match=rf"1\.png is a file.*; {LAYOUT}"):
        FolderScenes(put(tmp_path / "a" / "1.png"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"empty holds no pictures; {LAYOUT}"):
        FolderScenes(tmp_path / "empty")


def test_flat_imagenet_validation_folder_is_refused(tmp_path: Path) -> None:
    for number in range(1, 6):
        put(tmp_path / f"ILSVRC2012_val_{number:08}.JPEG")
    with pytest.raises(ValueError, match=rf"00000001\.JPEG.* and 2 more.*no label; {LAYOUT}"):
        FolderScenes(tmp_path)


def test_an_empty_class_folder_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path / TENCH / "1.png")
    (tmp_path / TABBY).mkdir()
    with pytest.raises(ValueError, match=rf"without pictures \({TABBY}\)"):
        FolderScenes(tmp_path)


def test_a_folder_of_splits_is_not_taken_for_classes(tmp_path: Path) -> None:
    put(tmp_path / "train" / TENCH / "1.png")
    put(tmp_path / "val" / TENCH / "2.png")
    with pytest.raises(ValueError, match=r"\(train, val\).*give the folder that holds the classes"):
        FolderScenes(tmp_path)


def test_unknown_wnids_and_mixed_names_are_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path / TENCH / "1.png")
    put(tmp_path / "n00000001" / "1.png")
    with pytest.raises(ValueError, match=r"not in ImageNet-1k \(n00000001\)"):
        FolderScenes(tmp_path)
    put(tmp_path / "cats" / "1.png")
    with pytest.raises(ValueError, match=r"mixes .* with others \(cats\)"):
        FolderScenes(tmp_path)


def test_all_files_that_are_no_pictures_are_named_at_construction(tmp_path: Path) -> None:
    put(tmp_path / "a" / "fine.png")
    for name in "bcde":
        (tmp_path / "a" / f"{name}.jpg").write_text("this is text")
    with pytest.raises(UnreadablePictureError) as refusal:
        FolderScenes(tmp_path)
    message = str(refusal.value)
    assert "4 of 5 pictures can not be used (a/b.jpg, a/c.jpg, a/d.jpg and 1 more)" in message
    assert "b.jpg can not be used: Pillow finds no picture in it; replace or remove it." in message


def test_a_truncated_picture_is_replaced_by_the_next_with_one_warning(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png", (1, 1, 1))
    put_truncated(tmp_path / "a" / "2.jpg")
    put(tmp_path / "b" / "3.png", (3, 3, 3))
    scenes = FolderScenes(tmp_path, size_px=8)
    assert len(scenes) == 3
    with pytest.warns(UserWarning, match=r"2\.jpg.*next picture stands in") as caught:
        scene = scenes[1]
    assert len(caught) == 1
    assert (scene.name, scene.label) == ("b/3.png", 1) and (scene.picture == 3).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scenes[1].name == "b/3.png" and scenes[0].name == "a/1.png"


@pytest.mark.filterwarnings("ignore")
def test_the_last_picture_is_replaced_by_the_first(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png")
    put_truncated(tmp_path / "a" / "2.jpg")
    assert FolderScenes(tmp_path)[1].name == "a/1.png"


@pytest.mark.filterwarnings("ignore")
def test_a_storage_that_vanishes_ends_the_run_with_one_sentence(tmp_path: Path) -> None:
    for number in range(30):
        put(tmp_path / "a" / f"{number:02}.png")
    scenes = FolderScenes(tmp_path)
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    with pytest.raises(UnreadablePictureError, match=r"a/00\.png.*storage is still there"):
        scenes[0]


def test_all_kinds_of_pictures_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, mode in {"g.jpg": "L", "c.jpg": "CMYK", "t.png": "RGBA", "p.png": "P"}.items():
        Image.new(mode, (30, 20)).save(tmp_path / "a" / name)
    put(tmp_path / "a" / "tiny.png", size=1)
    Image.new("RGB", (5000, 4000)).save(tmp_path / "a" / "large.jpg", quality=10)
    scenes = FolderScenes(tmp_path, size_px=32)
    assert len(scenes) == 6
    assert all(scenes[i].picture.shape == (32, 32, 3) for i in range(6))


def folders(root: Path, *names: str) -> Path:
    for name in names:
        put(root / name / "1.png")
    return root


def test_numbers_are_ids(tmp_path: Path) -> None:
    scenes = FolderScenes(folders(tmp_path, "0", "1", "2", "10", "007"), size_px=8)
    labels = dict(zip(scenes.names, scenes.labels, strict=True))
    assert labels == {"0/1.png": 0, "007/1.png": 7, "1/1.png": 1, "10/1.png": 10, "2/1.png": 2}
    assert scenes.class_names == tuple(map(str, range(11)))
    of_imagenet = FolderScenes(tmp_path, classes="imagenet")
    assert of_imagenet.class_names == CLASS_NAMES and of_imagenet.labels == scenes.labels


def test_all_thousand_ids_of_imagenet(tmp_path: Path) -> None:
    source = put(tmp_path / "0" / "1.png")
    for number in range(1, 1000):
        (tmp_path / str(number)).mkdir()
        os.link(source, tmp_path / str(number) / "1.png")
    scenes = FolderScenes(tmp_path, classes="imagenet")
    assert [f"{label}/1.png" for label in scenes.labels] == list(scenes.names)


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (("7", "07"), "any", "folders 07 and 7, which are one class id"),
        (("7", "cat"), "any", r"mixes class folders named by number with others \(cat\)"),
        (("7", TENCH), "imagenet", r"mixes .* by wnid with others \(7\)"),
        (("0", "1000"), "imagenet", r"no class ids from 0 to 999 \(1000\)"),
        (("0", "20240101"), "any", r"no class ids from 0 to 99999 \(20240101\)"),
        (("0", "9" * 200), "any", "no class ids"),
        (("cat", "dog"), "imagenet", r"\(cat, dog\) .* neither ImageNet-1k wnids .* nor its ids"),
        (("-1", "1.0"), "imagenet", "neither"),
        (("\u0663", "\u0664"), "imagenet", "neither"),  # digits, but not of a class id
    ],
)
def test_names_without_one_meaning_are_refused(
    tmp_path: Path, names: tuple[str, ...], classes: Any, message: str
) -> None:
    try:
        root = folders(tmp_path, *names)
    except UnicodeEncodeError:
        pytest.skip("this file system's encoding cannot write such names")
    with pytest.raises(ValueError, match=message):
        FolderScenes(root, classes=classes)


def test_links_that_lead_nowhere_are_refused_by_name(tmp_path: Path) -> None:
    folders(tmp_path, "ape", "cat")
    (tmp_path / "bear").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"bear is a link to .*gone, where nothing .*; mend or"):
        FolderScenes(tmp_path)
    (tmp_path / "bear").unlink()
    (tmp_path / "cat" / "2.png").symlink_to("2.png")  # round in a circle
    with pytest.raises(ValueError, match=r"2\.png is a link to 2\.png, where nothing"):
        FolderScenes(tmp_path)
    (tmp_path / "cat" / "2.png").unlink()
    (tmp_path / "cat" / "2.png").symlink_to("1.png")
    (tmp_path / "dog").symlink_to(tmp_path / "ape")
    assert FolderScenes(tmp_path).class_names == ("ape", "cat", "dog")


def test_the_working_directory_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "here" / "a" / "1.png", (5, 5, 5))
    monkeypatch.chdir(tmp_path)
    scenes = FolderScenes("here", size_px=8)
    monkeypatch.chdir("/")
    assert (scenes[0].picture == 5).all()


PASSING = [errno.EIO, errno.EMFILE, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EACCES]


@pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
@pytest.mark.parametrize("times", [1, 99])
def test_errors_of_the_storage_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, times: int
) -> None:
    put(tmp_path / "a" / "1.png", (1, 1, 1))
    put(tmp_path / "a" / "2.png", (2, 2, 2))
    scenes = FolderScenes(tmp_path, size_px=8)
    left = times
    opened = Image.open

    def fails(*args: Any, **kwargs: Any) -> Image.Image:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(number, os.strerror(number))
        return opened(*args, **kwargs)

    monkeypatch.setattr(Image, "open", fails)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if times > 1:
            with pytest.raises(PictureStorageError, match=rf"1\.png can .*{os.strerror(number)}"):
                scenes[0]
            left = 0
        assert scenes[0].name == "a/1.png" and (scenes[0].picture == 1).all()


def test_an_error_while_decoding_that_passes_is_not_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libtiff and others report a failed read as damage: asked again, the picture is whole."""
    put(tmp_path / "a" / "1.png", (1, 1, 1))
    put(tmp_path / "a" / "2.png", (2, 2, 2))
    scenes = FolderScenes(tmp_path, size_px=8)
    answers = iter([OSError("decoder error -2"), None])
    load = ImageFile.ImageFile.load

    def fails_once(self: ImageFile.ImageFile) -> Any:
        if (error := next(answers, None)) is not None:
            raise error
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", fails_once)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scenes[0].name == "a/1.png"


def test_faults_of_the_library_are_not_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a" / "1.png")
    scenes = FolderScenes(tmp_path, size_px=8)
    monkeypatch.setattr(Image.Image, "resize", None)
    with pytest.raises(TypeError, match="not callable"):
        scenes[0]


NAMES = [b"plain", b"with space", b"new\nline", b"caf\xc3\xa9", b"latin-1 \xe9", b"x" * 200]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_of_any_bytes(tmp_path: Path, name: bytes) -> None:
    folder = os.path.join(os.fsencode(tmp_path), name)
    try:
        os.mkdir(folder)
        Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
        os.rename(tmp_path / "1.png", os.path.join(folder, name + b".png"))
    except OSError:
        pytest.skip("this file system takes no such name")
    scenes = pickle.loads(pickle.dumps(FolderScenes(tmp_path, size_px=8)))
    assert os.fsencode(scenes[0].name) == name + b"/" + name + b".png"
    assert split_of(scenes[0].name) in ("train", "test")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / os.fsdecode(name + b".jpg")).write_text("no picture")
    with pytest.raises(UnreadablePictureError) as refusal:
        FolderScenes(tmp_path)
    assert str(refusal.value).isprintable() and str(refusal.value).encode("utf-8")


@pytest.mark.parametrize("upright", [False, True])
def test_orientation_is_that_of_the_published_protocol_unless_asked(
    tmp_path: Path, upright: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png", exif=exif)
    picture = FolderScenes(tmp_path, size_px=8, upright=upright)[0].picture
    assert (picture == (pixels[::-1] if upright else pixels)).all()


def test_of_very_many_files_some_headers_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MAX_CHECKED", 2)
    for number in range(4):
        put(tmp_path / "a" / f"{number}.png", (number, 0, 0))
    (tmp_path / "a" / "1.png").write_bytes(b"no picture")
    scenes = FolderScenes(tmp_path, size_px=8)
    with pytest.warns(UserWarning, match="1.png can not be used: .* The next picture stands in"):
        assert scenes[1].name == "a/2.png"
    (tmp_path / "a" / "2.png").write_bytes(b"no picture")
    with pytest.raises(UnreadablePictureError, match=r"1 of 4 pictures can not be used \(a/2.png"):
        FolderScenes(tmp_path, size_px=8)
