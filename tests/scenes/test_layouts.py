"""Folders of pictures in any layout: each is recognised, says what it is, and gives its scenes."""

from __future__ import annotations

import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from test_ilsvrc import FIRST, SOLUTION, put_pictures, stem
from test_table import put as put_table
from test_table import table
from test_tar import put_tar, sample

from canvit_gym.scenes.folder import FolderScenes
from canvit_gym.scenes.ilsvrc import ValidationScenes
from canvit_gym.scenes.imagenet import CLASS_NAMES
from canvit_gym.scenes.imagenette import imagenette
from canvit_gym.scenes.layouts import JoinedScenes, main, open_scenes
from canvit_gym.scenes.table import TableScenes
from canvit_gym.scenes.tar import TarScenes

TENCH, TABBY, ESPRESSO = "n01440764", "n02123045", "n07920052"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def put(path: Path, level: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, level, level)).save(path)
    return path


def labels(scenes: Any) -> list[int]:
    return [scenes[i].label for i in range(len(scenes))]


def test_class_folders(tmp_path: Path) -> None:
    put(tmp_path / TABBY / "a.png")
    put(tmp_path / TENCH / "b.png")
    scenes = open_scenes(tmp_path, size_px=8, classes="imagenet", labels="required")
    assert isinstance(scenes, FolderScenes) and labels(scenes) == [0, 281]
    assert scenes.layout == "class folders, 2 pictures of 1000 classes"


def test_the_flat_validation_pictures(tmp_path: Path) -> None:
    put_pictures(tmp_path)
    scenes = open_scenes(tmp_path, size_px=8)
    assert scenes.layout.startswith("ImageNet's validation pictures in one folder, without labels")
    assert labels(scenes) == [-1] * 5
    (tmp_path / "LOC_val_solution.csv").write_text(SOLUTION)
    scenes = open_scenes(tmp_path, size_px=8, classes="imagenet", labels="required")
    assert isinstance(scenes, ValidationScenes) and labels(scenes) == list(FIRST)
    assert "with labels of LOC_val_solution.csv, 5 pictures" in scenes.layout


@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_tar_of_the_validation_pictures(tmp_path: Path, given: str) -> None:
    pictures = put_pictures(tmp_path / "pictures")
    members = {path.name: path.read_bytes() for path in sorted(pictures.iterdir())}
    shutil.rmtree(pictures)
    tar = put_tar(tmp_path / "ILSVRC2012_img_val.tar", members)
    root = tar if given == "file" else tmp_path
    assert labels(open_scenes(root, size_px=8)) == [-1] * 5
    with pytest.raises(ValueError, match=r"validation pictures without labels; put LOC_val_sol"):
        open_scenes(root, labels="required")
    (tmp_path / "LOC_val_solution.csv").write_text(SOLUTION)
    scenes = open_scenes(root, size_px=8, classes="imagenet", labels="required")
    assert isinstance(scenes, TarScenes) and labels(scenes) == list(FIRST)
    assert scenes[0].name == f"n01751748/{stem(1)}.JPEG"
    assert scenes.layout == "a tar file, 5 pictures of 1000 classes"


def test_tar_shards(tmp_path: Path) -> None:
    put_tar(tmp_path / "shard-000000.tar", sample("1", 1, 5) | sample("2", 2))
    assert labels(open_scenes(tmp_path, size_px=8)) == [5, -1]
    scenes = open_scenes(tmp_path, size_px=8, labels="required", classes="imagenet")
    assert labels(scenes) == [5] and scenes.layout == "tar shards, 1 pictures of 1000 classes"


def test_kaggles_tree(tmp_path: Path) -> None:
    data = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    put(data / "train" / TENCH / f"{TENCH}_1.JPEG")
    put(data / "train" / ESPRESSO / f"{ESPRESSO}_1.JPEG")
    put_pictures(data / "val")
    put(data / "test" / "ILSVRC2012_test_00000001.JPEG")
    (tmp_path / "LOC_val_solution.csv").write_text(SOLUTION)
    for root in (tmp_path, tmp_path / "ILSVRC", data):
        scenes = open_scenes(root, size_px=8, classes="imagenet", labels="required")
        assert isinstance(scenes, ValidationScenes) and labels(scenes) == list(FIRST)
        assert scenes.layout.startswith("Kaggle's tree of ImageNet: test from val (ImageNet's")
    with pytest.warns(UserWarning, match="may be among those that the backbone has learned from"):
        scenes = open_scenes(tmp_path, size_px=8, split="train", classes="imagenet")
    assert labels(scenes) == [0, 967]


def test_training_and_validation_folders(tmp_path: Path) -> None:
    put(tmp_path / "train" / "dog" / "1.png", 1)
    put(tmp_path / "train" / "cat" / "1.png", 2)
    put(tmp_path / "val" / "dog" / "1.png", 3)
    put(tmp_path / "val" / "cat" / "2.png", 4)
    put(tmp_path / "test" / "unlabelled.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test, train = (open_scenes(tmp_path, size_px=8, split=s) for s in ("test", "train"))  # type: ignore[arg-type]
        both, plain = open_scenes(tmp_path, size_px=8, split="all"), open_scenes(tmp_path)
    assert labels(test) == [0, 1] == labels(train) and labels(both) == [0, 1] * 2
    assert [plain[i].name for i in range(2)] == ["cat/2.png", "dog/1.png"]  # as of val alone
    assert isinstance(both, JoinedScenes) and both.class_names == ("cat", "dog")
    copy = pickle.loads(pickle.dumps(both))
    assert [copy[i].name for i in range(4)] == [
        "train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "test/dog/1.png"
    ]  # fmt: skip
    assert [int(both[i].picture[0, 0, 0]) for i in range(4)] == [2, 1, 4, 3]
    assert both.layout == (
        "a data set in parts: train from train (class folders) and test from val (class folders),"
        " 4 pictures of 2 classes"
    )
    with pytest.raises(IndexError, match=r"scenes 0 \.\. 3"):
        both[4]
    put(tmp_path / "train" / "ape" / "1.png")
    with pytest.raises(ValueError, match=r"different class folders \(ape\), so that numbers"):
        open_scenes(tmp_path)


def test_hugging_face_data_sets(tmp_path: Path) -> None:
    names = ("cat", "dog")
    hub = tmp_path / "hub"
    put_table(hub / "data" / "train-00000-of-00001.parquet", table([1, 2], [0, 1], names))
    put_table(hub / "data" / "validation-00000-of-00001.parquet", table([3], [1], names))
    put_table(hub / "data" / "test-00000-of-00001.parquet", table([4], [-1], names))
    saved = tmp_path / "saved"
    put_table(saved / "train" / "data-00000-of-00001.arrow", table([1, 2], [0, 1], names))
    put_table(saved / "validation" / "data-00000-of-00001.arrow", table([3], [1], names))
    (saved / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    for root in (hub, saved):
        assert labels(open_scenes(root, size_px=8)) == [1]
        scenes = open_scenes(root, size_px=8, split="train")
        assert isinstance(scenes, TableScenes) and labels(scenes) == [0, 1]
        assert scenes.class_names == names and "of a Hugging Face data set" in scenes.layout
        assert labels(open_scenes(root, size_px=8, split="all")) == [0, 1, 1]
    one = open_scenes(saved / "train", size_px=8)
    assert labels(one) == [0, 1] and one.layout.startswith("Arrow files of a Hugging Face data set")
    shutil.rmtree(saved / "validation")
    assert labels(open_scenes(saved, size_px=8)) == [0, 1]
    with pytest.raises(ValueError, match=r'which has no split "test"; choose "train"'):
        open_scenes(saved, split="test")


def test_a_description_of_what_a_folder_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "cat" / "1.png")
    main([str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path}: class folders, 1 pictures of 1 classes\n"
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere")])
    assert "accepted are class folders" in capsys.readouterr().err


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no .*; accepted are class folders"):
        open_scenes(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no pictures; accepted are class folders"):
        open_scenes(tmp_path)
    put(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"loose pictures \(a.png\), which have no label; accept"):
        open_scenes(tmp_path)
    with pytest.raises(ValueError, match=r"a.png is a file of no known kind; accepted are"):
        open_scenes(tmp_path / "a.png")
    put_tar(tmp_path / "b" / "ILSVRC2012_img_train.tar", {"n01440764.tar": b""})
    with pytest.raises(ValueError, match=r"train.tar is a tar file of tar files; unpack it"):
        open_scenes(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match=r"without a folder train or validation"):
        open_scenes(tmp_path / "c")
    for options in ({"split": "val"}, {"labels": "some"}, {"classes": "some"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            open_scenes(tmp_path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("write", ["flat", "tar_of_flat", "shards", "tables", "parts"])
def test_names_are_known_without_a_look_at_the_pictures(tmp_path: Path, write: str) -> None:
    globals()[write](tmp_path)
    split = "all" if write == "parts" else None
    scenes = open_scenes(tmp_path, size_px=8, split=split)  # type: ignore[arg-type]
    assert [scenes.name_of(i) for i in range(len(scenes))] == [
        scenes[i].name for i in range(len(scenes))
    ]


# -- the environment -------------------------------------------------------------------------------


def flat(root: Path) -> list[int]:
    put_pictures(root)
    (root / "LOC_val_solution.csv").write_text(SOLUTION)
    return list(FIRST)


def tar_of_flat(root: Path) -> list[int]:
    expected = flat(root)
    members = {path.name: path.read_bytes() for path in root.glob("*.JPEG")}
    for path in root.glob("*.JPEG"):
        path.unlink()
    put_tar(root / "ILSVRC2012_img_val.tar", members)
    return expected


def shards(root: Path) -> list[int]:
    put_tar(root / "shard-000000.tar", sample("1", 1, 5) | sample("2", 2) | sample("3", 3, 7))
    return [5, 7]


def tables(root: Path) -> list[int]:
    put_table(root / "data.parquet", table([1, 2, 3], [3, -1, 999]))
    return [3, 999]


def kaggle(root: Path) -> list[int]:
    data = root / "ILSVRC" / "Data" / "CLS-LOC"
    put(data / "train" / TENCH / f"{TENCH}_1.JPEG")
    put_pictures(data / "val")
    (root / "LOC_val_solution.csv").write_text(SOLUTION)
    return list(FIRST)


def parts(root: Path) -> list[int]:
    put(root / "train" / TENCH / "1.JPEG")
    put(root / "val" / ESPRESSO / "2.JPEG")
    return [967]


@pytest.mark.parametrize("write", [flat, tar_of_flat, shards, tables, kaggle, parts])
def test_the_imagenet_environment_takes_each(
    tmp_path: Path, imagenet_checkpoint: str, write: Any
) -> None:
    expected = sorted(write(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env: Any = gym.make(
            "CanViT-IN1k-v0",
            backbone=imagenet_checkpoint,
            scenes=tmp_path,
            scene_size_px=32,
            canvas_grid_size=4,
        )
    scenes = env.unwrapped.scenes
    assert sorted(labels(scenes)) == expected and len(scenes.class_names) == 1000
    assert f"{len(expected)} pictures of 1000 classes" in scenes.layout
    for index in range(len(scenes)):
        _, info = env.reset(options={"scene": index})
        assert info["label"] == scenes[index].label


def test_the_imagenet_environment_takes_imagenette(cache: Path, imagenet_checkpoint: str) -> None:
    put(cache / "canvit-gym" / "imagenette" / "imagenette2-160" / "train" / TENCH / "1.JPEG")
    put(cache / "canvit-gym" / "imagenette" / "imagenette2-160" / "val" / "n03888257" / "1.JPEG")
    env: Any = gym.make(
        "CanViT-IN1k-v0",
        backbone=imagenet_checkpoint,
        scenes="imagenette",
        scene_size_px=128,
        canvas_grid_size=4,
    )
    assert labels(env.unwrapped.scenes) == [701]


def test_unlabelled_pictures_can_not_be_named(tmp_path: Path, imagenet_checkpoint: str) -> None:
    shards(tmp_path)
    source = TarScenes(tmp_path, size_px=32, classes="imagenet")
    with pytest.raises(ValueError, match=r"1 of the 3 scenes given have no label, so nothing"):
        gym.make("CanViT-IN1k-v0", backbone=imagenet_checkpoint, scenes=source)
    with pytest.raises(ValueError, match=r"None of the 1 pictures .* has a label; accepted is"):
        put_tar(tmp_path / "shard-000000.tar", sample("1", 1))
        gym.make("CanViT-IN1k-v0", backbone=imagenet_checkpoint, scenes=tmp_path)


# -- Imagenette ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size_px", "name"),
    [(128, "imagenette2-160"), (256, "imagenette2-320"), (512, "imagenette2")],
)
def test_imagenette_is_taken_where_it_lies(cache: Path, size_px: int, name: str) -> None:
    root = cache / "canvit-gym" / "imagenette" / name
    put(root / "train" / TENCH / "n01440764_1.JPEG")
    put(root / "val" / TENCH / "n01440764_2.JPEG")
    put(root / "val" / "n03888257" / "n03888257_3.JPEG")
    assert imagenette(size_px=size_px) == root
    scenes = open_scenes(root, size_px=8, classes="imagenet")
    assert labels(scenes) == [0, 701] and scenes.class_names == CLASS_NAMES


def test_imagenette_is_downloaded_where_it_is_not(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    asked: list[Any] = []

    def download(root: Path, *, size: str, download: bool) -> None:
        asked.append((root, size, download))
        put(root / "imagenette2-160" / "val" / TENCH / "1.JPEG")

    monkeypatch.setattr(datasets, "Imagenette", download)
    for _ in range(2):
        assert (imagenette(size_px=128) / "val" / TENCH / "1.JPEG").is_file()
    assert asked == [(cache / "canvit-gym" / "imagenette", "160px", True)]


def test_imagenette_offline_is_refused_in_a_sentence(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = pytest.importorskip("urllib.request")

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no route\nto host")

    monkeypatch.setattr(request, "urlopen", refuse)
    with pytest.raises(
        FileNotFoundError,
        match=r"Imagenette is not in .*imagenette2 and can not be downloaded \(no route to host\); "
        r"unpack imagenette2.tgz there, or give other scenes",
    ):
        imagenette(size_px=512)


def test_pictures_are_those_of_the_plain_source(tmp_path: Path) -> None:
    put_tar(tmp_path / "a.tar", sample("1", 1, 5))
    ours, theirs = open_scenes(tmp_path, size_px=16), TarScenes(tmp_path, size_px=16)
    np.testing.assert_array_equal(ours[0].picture, theirs[0].picture)
