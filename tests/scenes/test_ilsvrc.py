"""ImageNet's validation pictures in one folder, and every file that says what they show."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from canvit_gym.scenes.folder import FolderScenes
from canvit_gym.scenes.ilsvrc import (
    N_PICTURES,
    ValidationScenes,
    _devkit_order,
    find_labels,
    read_labels,
)
from canvit_gym.scenes.imagenet import CLASS_NAMES, WNIDS

FIRST = (65, 970, 230, 809, 516)
"""Labels of the first validation pictures, as several sources publish them."""

LABELS = [*FIRST, *(i % 1000 for i in range(N_PICTURES - len(FIRST)))]


def stem(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}"


def put_pictures(folder: Path, numbers: range = range(1, 6)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{stem(number)}.JPEG")
    return folder


def devkit_ids() -> str:
    ids = {wnid: number for number, wnid in enumerate(_devkit_order(), start=1)}
    return "".join(f"{ids[WNIDS[label]]}\n" for label in LABELS)


SOLUTION = "ImageId,PredictionString\n" + "".join(
    f"{stem(i)},{WNIDS[label]} 111 108 370 297 {WNIDS[label]} 1 2 3 4 \n"
    for i, label in reversed(list(enumerate(FIRST, start=1)))
)


def test_the_development_kit_counts_classes_in_an_order_of_its_own() -> None:
    order = _devkit_order()
    assert sorted(order) == list(WNIDS) and list(order) != list(WNIDS)
    # As torchvision's and Caffe's users know: 490 is the sea snake, 1 the kit fox.
    assert order[489] == "n01751748" and order[0] == "n02119789"
    assert devkit_ids().split()[:5] == ["490", "361", "171", "822", "297"]


@pytest.mark.parametrize("kind", ["kaggle", "devkit", "archive", "tensorflow", "caffe", "wnids"])
def test_each_file_of_labels_says_the_same(tmp_path: Path, kind: str) -> None:
    root = put_pictures(tmp_path / "val")
    if kind == "kaggle":
        (tmp_path / "LOC_val_solution.csv").write_text(SOLUTION)
    elif kind == "devkit":
        (root / "ILSVRC2012_validation_ground_truth.txt").write_text(devkit_ids())
    elif kind == "archive":
        data = devkit_ids().encode()
        with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
            name = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    elif kind == "tensorflow":
        lines = "\n".join(WNIDS[label] for label in LABELS)
        (root / "imagenet_2012_validation_synset_labels.txt").write_text(lines)
    elif kind == "caffe":
        lines = "\n".join(f"{stem(i)}.JPEG {label}" for i, label in enumerate(FIRST, start=1))
        (root / "val.txt").write_text(lines)
    else:
        lines = "\n".join(f"{stem(i)}.JPEG {WNIDS[k]}" for i, k in enumerate(FIRST, start=1))
        (tmp_path / "val.txt").write_text(lines)
    scenes = ValidationScenes(root, size_px=8, labels="required")
    assert scenes.labels == FIRST and scenes.class_names == CLASS_NAMES
    assert [scenes[i].label for i in range(5)] == list(FIRST)


def test_names_and_splits_are_those_of_class_folders(tmp_path: Path) -> None:
    flat = put_pictures(tmp_path / "val", range(1, 41))
    lines = "\n".join(f"{stem(i)} {LABELS[i - 1]}" for i in range(1, 41))
    (flat / "val.txt").write_text(lines)
    for number in range(1, 41):
        put_pictures(tmp_path / "sorted" / WNIDS[LABELS[number - 1]], range(number, number + 1))
    for split in ("all", "train", "test"):
        ours = ValidationScenes(flat, size_px=8, split=split)  # type: ignore[arg-type]
        theirs = FolderScenes(tmp_path / "sorted", size_px=8, split=split)  # type: ignore[arg-type]
        named = [
            {s[i].name: (s[i].label, int(s[i].picture[0, 0, 0])) for i in range(len(s))}
            for s in (ours, theirs)
        ]
        assert named[0] == named[1] and len(named[0]) == len(ours) > 0


def test_without_labels_they_serve_only_where_none_are_needed(tmp_path: Path) -> None:
    root = put_pictures(tmp_path / "a" / "b" / "c" / "d" / "e" / "val")
    scenes = ValidationScenes(root, size_px=8)
    assert scenes[0].label == -1 and scenes.label_file is None
    assert scenes[0].name == f"{stem(1)}.JPEG"
    with pytest.raises(ValueError, match=r"5 of 5 pictures .* no label in no file of labels; put"):
        ValidationScenes(root, labels="required")
    (root / "val.txt").write_text(f"{stem(1)} 65\n")
    with pytest.raises(ValueError, match=r"4 of 5 pictures .*2.JPEG.* no label in .*val.txt"):
        ValidationScenes(root)
    with pytest.raises(ValueError, match=r"holds no pictures ILSVRC2012_val_00000001.JPEG"):
        ValidationScenes(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("490\n361\n", r"has 2 lines, but ImageNet has 50000 validation pictures; put"),
        ("1\n" * N_PICTURES, r"which begin with sea snake, alp and Shetland sheepdog; put"),
        (f"{stem(1)} 490\n", r"says that ILSVRC2012_val_00000001 is of class 490, which is 65"),
        (f"{stem(9)} 1000\n", r"no class of ImageNet-1k in its entry 1 \(ILSVRC2012_val_0000000"),
        (f"{stem(9)} n00000000\n", r"names no class of ImageNet-1k in its entry 1"),
        (f"{stem(9)} 1 2\n", r"names no class of ImageNet-1k in its entry 1"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000009,\n", r"names no class .* entry 1"),
        ("\n".join(["490", "361", "171", "822", "297"] + ["1001"] * 49_995), r"which begin with"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "val.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(path)


def test_files_that_can_not_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"val.txt is no file of labels"):
        find_labels(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"devkit_t12.tar.gz is no file of labels"):
        find_labels(tmp_path)
