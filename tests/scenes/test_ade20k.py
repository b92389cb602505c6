"""SceneParse150: the published protocol to the pixel, and what a refusal says."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from canvit_gym.preprocess import UnreadablePictureError, normalize
from canvit_gym.scenes.ade20k import CLASS_NAMES, ADE20KScenes
from canvit_gym.scenes.base import IGNORE, Scenes

SIZE_PX = 48

# (height, width): both orientations, odd margins that round half to even, a square, one that is
# smaller than the scene, one that already has its size.
SHAPES = [(75, 100), (100, 75), (67, 131), (53, 64), (50, 50), (7, 9), (48, 48)]


def noise(shape: tuple[int, ...], *, below: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, below, shape, dtype=np.uint8)


def picture_path(root: Path, stem: str, folder: str = "validation") -> Path:
    return root / "images" / folder / f"{stem}.jpg"


def mask_path(root: Path, stem: str, folder: str = "validation") -> Path:
    return root / "annotations" / folder / f"{stem}.png"


def put(
    root: Path,
    stem: str,
    *,
    folder: str = "validation",
    shape: tuple[int, int] = (12, 16),
    values: np.ndarray | int | None = None,
    orientation: int = 1,
) -> None:
    """A noisy picture and its mask; `values` are the mask's, noise by default."""
    for path in (picture_path(root, stem, folder), mask_path(root, stem, folder)):
        path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(noise((*shape, 3), below=256))
    picture.save(picture_path(root, stem, folder), quality=95, exif=exif)
    if values is None:
        values = noise(shape, below=151)
    mask = np.broadcast_to(np.asarray(values, dtype=np.uint8), shape)
    Image.fromarray(mask).save(mask_path(root, stem, folder))


def cut_short(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of each of SHAPES in validation, and two others in training."""
    root = tmp_path_factory.mktemp("ADEChallengeData2016")
    for number, shape in enumerate(SHAPES, start=1):
        put(root, f"ADE_val_{number:08}", shape=shape)
    for number in (1, 2):
        put(root, f"ADE_train_{number:08}", folder="training")
    return root


def test_class_names_are_those_of_the_published_probes() -> None:
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 150
    known = {0: "wall", 12: "person", 44: "chest of drawers", 89: "television", 149: "flag"}
    assert {index: CLASS_NAMES[index] for index in known} == known
    reference = pytest.importorskip("canvit_pytorch.benchmarks.ade20k")
    assert reference.CLASS_NAMES == CLASS_NAMES and reference.IGNORE_LABEL == IGNORE


def test_squish_equals_the_published_data_set_to_the_bit(ade20k: Path) -> None:
    reference = pytest.importorskip("canvit_pytorch.benchmarks.ade20k")
    dataset = reference.ADE20kDataset(
        root=ade20k, split="validation", transform=reference.evaluation_transform(SIZE_PX)
    )
    scenes = ADE20KScenes(ade20k, split="test", size_px=SIZE_PX)
    assert len(scenes) == len(dataset) == len(SHAPES)
    for index in range(len(scenes)):
        picture, labels = dataset[index]
        scene = scenes[index]
        assert scene.mask is not None
        assert torch.equal(normalize(torch.from_numpy(scene.picture)[None])[0], picture)
        assert torch.equal(torch.from_numpy(scene.mask).long(), labels)


@pytest.mark.parametrize("fit", ["squish", "crop"])
def test_equals_torchvision_to_the_pixel(ade20k: Path, fit: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    size = SIZE_PX if fit == "crop" else (SIZE_PX, SIZE_PX)
    crop = transforms.CenterCrop(SIZE_PX)  # changes nothing where all was squished
    smooth = transforms.Compose([transforms.Resize(size), crop])
    nearest = transforms.Compose(
        [transforms.Resize(size, transforms.InterpolationMode.NEAREST), crop]
    )
    scenes = ADE20KScenes(ade20k, split="test", size_px=SIZE_PX, fit=fit)
    for index in range(len(scenes)):
        scene, stem = scenes[index], f"ADE_val_{index + 1:08}"
        with Image.open(picture_path(ade20k, stem)) as picture:
            assert (scene.picture == np.asarray(smooth(picture))).all()
        with Image.open(mask_path(ade20k, stem)) as mask:
            raw = np.asarray(nearest(mask)).astype(int)
        assert scene.mask is not None
        assert (scene.mask == np.where(raw == 0, IGNORE, raw - 1)).all()


@pytest.mark.parametrize(("fit", "first", "last"), [("squish", 10, 19), ("crop", 5, 24)])
def test_the_mask_lies_on_its_picture(tmp_path: Path, fit: str, first: int, last: int) -> None:
    put(tmp_path, "a", shape=(30, 60))
    pixels = np.zeros((30, 60), dtype=np.uint8)
    pixels[:15, 20:40] = 1  # squished: half of the columns; cropped: 15 columns less on the left
    Image.fromarray(pixels * 255).convert("RGB").save(picture_path(tmp_path, "a"), quality=100)
    Image.fromarray(pixels + 4).save(mask_path(tmp_path, "a"))
    scene = ADE20KScenes(tmp_path, split="test", size_px=30, fit=fit)[0]
    assert scene.mask is not None
    white = scene.picture[..., 0] > 127
    assert white.any() and ((scene.mask == 4) == white).mean() > 0.95
    rows, columns = np.nonzero(scene.mask == 4)
    assert (rows.min(), rows.max()) == (0, 14)
    assert (columns.min(), columns.max()) == (first, last)


def test_labels_are_values_less_one_and_zero_is_ignored(tmp_path: Path) -> None:
    values = np.array([[0, 1], [2, 150]])
    put(tmp_path, "a", shape=(2, 2), values=values)
    scenes: Scenes = ADE20KScenes(tmp_path, split="test", size_px=2)
    scene = scenes[0]
    assert scene.mask is not None and scene.mask.tolist() == [[IGNORE, 0], [1, 149]]
    assert scene.mask.dtype == np.uint8 and scene.mask.shape == (2, 2)
    assert scene.picture.dtype == np.uint8 and scene.picture.shape == (2, 2, 3)
    assert (scene.label, scene.target, scene.objects) == (-1, None, ())
    assert scenes.class_names == () and scenes.mask_class_names == CLASS_NAMES


def test_splits_are_the_folders_in_sorted_order(ade20k: Path) -> None:
    train = ADE20KScenes(ade20k, split="train", size_px=8)
    test = ADE20KScenes(ade20k, split="test", size_px=8)
    assert [train[i].name for i in range(len(train))] == [
        "images/training/ADE_train_00000001.jpg",
        "images/training/ADE_train_00000002.jpg",
    ]
    assert test[6].name == "images/validation/ADE_val_00000007.jpg" and len(test) == 7
    assert ADE20KScenes(ade20k, split="test").size_px == 512


def test_equal_to_itself_after_pickling_and_bounded(ade20k: Path) -> None:
    scenes = ADE20KScenes(ade20k, split="train", size_px=8)
    scenes[0]
    again = pickle.loads(pickle.dumps(scenes))
    first, second = scenes[1], again[1]
    assert first.name == second.name and (first.picture == second.picture).all()
    assert first.mask is not None and (first.mask == second.mask).all()
    for index in (2, -1):
        with pytest.raises(IndexError, match=r"scenes 0 \.\. 1"):
            scenes[index]


def test_the_stored_orientation_counts_because_the_mask_has_it(tmp_path: Path) -> None:
    # Orientation 6: viewers turn the picture a quarter; its mask was drawn on what is stored.
    put(tmp_path, "a", shape=(12, 16), orientation=6)
    put(tmp_path, "b", shape=(12, 16))
    scenes = ADE20KScenes(tmp_path, split="test", size_px=16)
    assert (scenes[0].picture == scenes[1].picture).all()
    Image.new("L", (12, 16), 1).save(mask_path(tmp_path, "a"))
    with pytest.raises(UnreadablePictureError, match=r"16 rows and 12 col.*EXIF .* one size\.$"):
        ADE20KScenes(tmp_path, split="test")


def test_grey_pictures_and_other_files_beside_them(tmp_path: Path) -> None:
    put(tmp_path, "a")
    Image.new("L", (16, 12), 7).save(picture_path(tmp_path, "a"))
    (picture_path(tmp_path, "a").parent / "._a.jpg").write_bytes(b"left by macOS")
    (mask_path(tmp_path, "a").parent / "notes.txt").write_text("no mask")
    scenes = ADE20KScenes(tmp_path, split="test", size_px=8)
    assert len(scenes) == 1 and (scenes[0].picture == 7).all()


@pytest.mark.parametrize("options", [{"split": "val"}, {"fit": "pad"}, {"size_px": 0}])
def test_wrong_options_are_refused(ade20k: Path, options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ADE20KScenes(ade20k, **{"split": "test", **options})


LAYOUT = r"accepted is the folder ADEChallengeData2016 .*images/.* annotations/"


def test_a_missing_root_and_a_file_are_refused(ade20k: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no folder .*nowhere; {LAYOUT}"):
        ADE20KScenes(ade20k / "nowhere", split="test")
    with pytest.raises(NotADirectoryError, match=rf"\.jpg is a file.*; {LAYOUT}"):
        ADE20KScenes(picture_path(ade20k, "ADE_val_00000001"), split="test")


def test_a_missing_split_is_named_with_the_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "images" / "validation").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"annotations/validation, which.*; .* add it\.$"):
        ADE20KScenes(tmp_path, split="test")
    put(tmp_path, "a")
    assert len(ADE20KScenes(tmp_path, split="test")) == 1
    expected = r'"train" needs .*images/training, which .* add it or use split="test", which is'
    with pytest.raises(FileNotFoundError, match=expected):
        ADE20KScenes(tmp_path, split="train")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a")
    picture_path(tmp_path, "a").unlink()
    with pytest.raises(ValueError, match=rf"images/validation holds no \.jpg pictures; {LAYOUT}"):
        ADE20KScenes(tmp_path, split="test")


def test_pictures_without_masks_and_masks_without_pictures_are_named(tmp_path: Path) -> None:
    for stem in "abcde":
        put(tmp_path, stem)
    for stem in "bcde":
        mask_path(tmp_path, stem).unlink()
    expected = r"4 of 5 pictures .*\(b\.jpg, c\.jpg, d\.jpg and 1 more\) have no mask .*; add the"
    with pytest.raises(ValueError, match=expected):
        ADE20KScenes(tmp_path, split="test")
    for stem in "bcde":
        put(tmp_path, stem)
    picture_path(tmp_path, "b").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 masks .*\(b\.png\) have no picture .*; add the"):
        ADE20KScenes(tmp_path, split="test")


@pytest.mark.parametrize("mode", ["RGB", "P", "I;16", "1"])
def test_masks_that_are_not_greyscale_are_refused_at_construction(
    tmp_path: Path, mode: str
) -> None:
    put(tmp_path, "a")
    put(tmp_path, "b")
    Image.new(mode, (16, 12)).save(mask_path(tmp_path, "b"))
    with pytest.raises(UnreadablePictureError) as refusal:
        ADE20KScenes(tmp_path, split="test")
    message = str(refusal.value)
    assert message.startswith("1 of 2 pictures can not be used (images/validation/b.jpg); ")
    modes = (mode, "I") if mode == "I;16" else (mode,)  # Pillow before 10.3 calls 16 bits I
    said = [f"b.png can not be used: its Pillow mode is {name}, but" in message for name in modes]
    assert any(said)
    assert message.endswith("save them as 8-bit greyscale (mode L).")


def test_files_that_are_no_pictures_and_other_sizes_are_refused_together(tmp_path: Path) -> None:
    for stem in "abcd":
        put(tmp_path, stem)
    Image.new("L", (15, 12), 1).save(mask_path(tmp_path, "b"))
    picture_path(tmp_path, "c").write_text("this is text")
    mask_path(tmp_path, "d").write_bytes(b"")
    with pytest.raises(UnreadablePictureError) as refusal:
        ADE20KScenes(tmp_path, split="test")
    message = str(refusal.value)
    assert message.startswith("3 of 4 pictures can not be used (images/validation/b.jpg, ")
    assert "b.png can not be used: it has 12 rows and 15 columns but its picture " in message
    assert "b.jpg has 12 rows and 16 columns as stored" in message


def test_values_above_150_are_refused_when_the_scene_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "a")
    values = np.ones((12, 16))
    values[5, 5] = 151  # lost at size_px=2, and refused all the same
    put(tmp_path, "b", values=values)
    scenes = ADE20KScenes(tmp_path, split="test", size_px=2)
    scenes[0]
    with pytest.raises(ValueError, match=r"b\.png holds the value 151, .* 1 \.\. 150; take its"):
        scenes[1]


@pytest.mark.parametrize("damaged", [picture_path, mask_path])
def test_a_truncated_file_is_replaced_by_the_next_scene_with_a_warning(
    tmp_path: Path, damaged: Callable[[Path, str], Path]
) -> None:
    for stem in "abc":
        put(tmp_path, stem, shape=(60, 80))
    cut_short(damaged(tmp_path, "b"))
    scenes = ADE20KScenes(tmp_path, split="test", size_px=8)
    expected = rf"{damaged(tmp_path, 'b').name} can not be used: .*; check or replace the file\."
    with pytest.warns(UserWarning, match=expected):
        scene = scenes[1]
    assert len(scenes) == 3 and scene.name == "images/validation/c.jpg"


def test_masks_saved_as_jpeg_are_refused_at_construction(tmp_path: Path) -> None:
    put(tmp_path, "a")
    with Image.open(mask_path(tmp_path, "a")) as image:
        lossy = Image.new("L", image.size, 3)
    lossy.save(mask_path(tmp_path, "a"), "JPEG")
    with pytest.raises(UnreadablePictureError, match=r"a\.png can not .*JPEG, which may change"):
        ADE20KScenes(tmp_path, split="test")
