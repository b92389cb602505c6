"""Tar shards: what belongs together, what an index saves, and what a refusal says."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from canvit_gym.preprocess import PictureStorageError, preprocess_picture
from canvit_gym.scenes import tar as tar_module
from canvit_gym.scenes.base import Scenes, require_scenes
from canvit_gym.scenes.imagenet import CLASS_NAMES
from canvit_gym.scenes.stored import split_of
from canvit_gym.scenes.tar import TarScenes, main


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def picture(seed: int, *, size: tuple[int, int] = (24, 16), kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def array(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values))
    return file.getvalue()


def put_tar(path: Path, members: Mapping[str, bytes], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def sample(key: str, seed: int, label: Any = None, **record: Any) -> dict[str, bytes]:
    members = {f"{key}.jpg": picture(seed)}
    if label is not None or record:
        members[f"{key}.json"] = json.dumps({"label": label, **record}).encode()
    return members


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of four, four and two pictures; every third has no label."""
    for shard in range(3):
        members: dict[str, bytes] = {}
        for i in range(4 if shard < 2 else 2):
            number = 4 * shard + i
            label = -1 if number % 3 == 2 else 10 * number
            members |= sample(f"{number:06}", number, label, source=f"from {number}")
        put_tar(tmp_path / f"shard-{shard:06}.tar", members)
    (tmp_path / "info.json").write_text('{"images_per_shard": 4, "keys": ["jpg", "json"]}')
    return tmp_path


def test_scenes_are_the_pictures_with_their_labels(shards: Path) -> None:
    scenes: Scenes = TarScenes(shards, size_px=16)
    require_scenes(scenes)
    assert len(scenes) == 10
    assert [scenes[i].label for i in range(10)] == [0, 10, -1, 30, 40, -1, 60, 70, -1, 90]
    assert scenes.class_names == tuple(map(str, range(91))) and scenes.mask_class_names == ()
    for i in range(10):
        expected = preprocess_picture(Image.open(io.BytesIO(picture(i))), 16)
        np.testing.assert_array_equal(scenes[i].picture, expected)
    assert scenes[5].name == "shard-000001/000005"
    assert len({scenes[i].name for i in range(10)}) == 10
    for index in (-1, 10):
        with pytest.raises(IndexError, match=r"scenes 0 \.\. 9"):
            scenes[index]


def test_members_in_any_order_and_of_any_kind(tmp_path: Path) -> None:
    put_tar(
        tmp_path / "a.tar",
        {
            "._x.jpg": b"left by macOS",
            "deep/er/b.json": b'{"label": 3}',
            "a.PNG": picture(1, kind="PNG"),
            "README": b"no sample",
            "notes.txt": b"no sample",
            "a.cls": b"7\n",
            "deep/er/b.jpeg": picture(2),
            "a.cls.npy": array(np.float16([1, 2])),
            "n01440764/c.jpg": picture(3),
            "x" * 150 + ".jpg": picture(4),
            "only.json": b'{"label": 1}',
        },
    )
    scenes = TarScenes(tmp_path, size_px=8)
    named = {scenes[i].name: scenes[i].label for i in range(len(scenes))}
    assert named == {"a/deep/er/b": 3, "a/a": 7, "a/n01440764/c": 0, "a/" + "x" * 150: -1}
    index = [scenes[i].name for i in range(len(scenes))].index("a/a")
    assert scenes.array(index, "cls.npy").tolist() == [1, 2]
    assert scenes.array(index, "cls.npy").dtype == np.float16
    assert not scenes.has("cls.npy") and scenes.has("picture")
    with pytest.raises(KeyError, match=r"a.tar: a has no ptch.npy"):
        scenes.array(index, "ptch.npy")


def test_records_and_stored_bytes(shards: Path) -> None:
    scenes = TarScenes(shards)
    assert scenes.record(4) == {"label": 40, "source": "from 4"}
    assert scenes.read(4) == picture(4)
    labelled = TarScenes(shards, labels="required")
    assert labelled.labels.tolist() == [0, 10, 30, 40, 60, 70, 90]
    assert labelled.record(3)["source"] == "from 4" and labelled.read(3) == picture(4)
    assert labelled.shard_of.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_without_labels_all_is_well_unless_they_are_required(tmp_path: Path) -> None:
    put_tar(tmp_path / "a.tar", {"1.jpg": picture(1)} | sample("2", 2, source="web"))
    scenes = TarScenes(tmp_path, size_px=8)
    assert [scenes[i].label for i in range(2)] == [-1, -1] and scenes.class_names == ()
    assert scenes.record(0) == {}
    with pytest.raises(ValueError, match=r"None of the 2 pictures .* has a label; accepted is"):
        TarScenes(tmp_path, labels="required")


def test_labels_of_official_names(tmp_path: Path) -> None:
    stem = "ILSVRC2012_val_00000001"
    put_tar(tmp_path / "val.tar", {f"{stem}.JPEG": picture(1), "other.JPEG": picture(2)})
    scenes = TarScenes(
        tmp_path / "val.tar", size_px=8, classes="imagenet", labels_of={stem: 65, "more": 1}
    )
    assert scenes.labels.tolist() == [65, -1] and scenes.class_names == CLASS_NAMES
    # As in class folders, so that it is in the same split.
    assert scenes[0].name == f"n01751748/{stem}.JPEG" and scenes[1].name == "val/other"


def test_splits_part_the_pictures(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(60):
        members |= {f"{number:03}.jpg": picture(0)}
    put_tar(tmp_path / "a.tar", members)
    whole, train, test = (TarScenes(tmp_path, split=s) for s in ("all", "train", "test"))  # type: ignore[arg-type]
    names = [[s[i].name for i in range(len(s))] for s in (whole, train, test)]
    assert sorted(names[1] + names[2]) == names[0] and 3 <= len(test) <= 24
    assert all(split_of(name) == "test" for name in names[2])


def test_a_split_may_be_empty(tmp_path: Path) -> None:
    key = next(f"{n}" for n in range(99) if split_of(f"a/{n}") == "train")
    put_tar(tmp_path / "a.tar", sample(key, 1, 1))
    with pytest.raises(ValueError, match=r'falls into split "test"; add pictures or use split="al'):
        TarScenes(tmp_path, split="test")


def test_features_that_are_none_are_refused(tmp_path: Path) -> None:
    put_tar(tmp_path / "a.tar", {"1.jpg": picture(1), "1.cls.npy": b"no array"})
    scenes = TarScenes(tmp_path)
    assert scenes.has("cls.npy") and not scenes.has("ptch.npy")
    with pytest.raises(ValueError, match=r"a.tar: 1 holds no array in its cls.npy"):
        scenes.array(0, "cls.npy")


def test_an_index_is_made_once(shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = TarScenes(shards, size_px=8)
    assert len(list((cache / "canvit-gym" / "tars").iterdir())) == 1
    assert sorted(path.suffix for path in shards.iterdir()) == [".json", ".tar", ".tar", ".tar"]

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the shards were read again")

    monkeypatch.setattr(tar_module, "build_index", refuse)
    again = TarScenes(shards, size_px=8)
    assert isinstance(again._index.place, np.memmap)
    np.testing.assert_array_equal(again[7].picture, first[7].picture)
    # Other shards under the same names are not these.
    os.utime(shards / "shard-000001.tar", (1, 1))
    with pytest.raises(AssertionError, match="read again"):
        TarScenes(shards)


def test_a_damaged_or_unwritable_cache_costs_only_time(shards: Path, cache: Path) -> None:
    TarScenes(shards)
    (index,) = (cache / "canvit-gym" / "tars").iterdir()
    index.write_bytes(index.read_bytes()[:100])
    assert len(TarScenes(shards)) == 10 and len(index.read_bytes()) > 1000
    index.unlink()
    index.parent.rmdir()
    index.parent.write_text("a file where the folder should be")
    assert TarScenes(shards)[9].label == 90


def test_an_index_beside_the_shards(
    shards: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(shards)])
    assert "10 pictures in 3 shards" in capsys.readouterr().out
    assert len(list(shards.glob("canvit-index-*.bin"))) == 1
    assert TarScenes(shards)[9].label == 90 and not list(cache.iterdir())
    with pytest.raises(SystemExit):
        main([str(shards / "nowhere")])
    assert "There is no" in capsys.readouterr().err


def test_an_order_is_a_permutation_that_a_seed_decides(shards: Path) -> None:
    scenes = TarScenes(shards)
    orders = [scenes.order(seed=1), scenes.order(seed=1, epoch=1), scenes.order(seed=2)]
    near = scenes.order(seed=1, shards_at_once=2)
    for order in (*orders, near):
        assert sorted(order) == list(range(10))
    assert len({tuple(order) for order in orders}) == 3
    assert (scenes.order(seed=1) == orders[0]).all()
    # The first group is two whole shards, the second the third one.
    seen = scenes.shard_of[near]
    first = {n for n in range(3) if n in seen[:4]}
    size = sum(int((scenes.shard_of == n).sum()) for n in first)
    assert len(first) <= 2 and set(seen[:size]) == first
    with pytest.raises(ValueError, match="shards_at_once is 0"):
        scenes.order(seed=1, shards_at_once=0)


def test_threads_processes_and_copies_read_the_same(shards: Path) -> None:
    scenes = TarScenes(shards, size_px=16, labels="required", split="all")
    alone = [scenes[i].picture for i in range(len(scenes))]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda i: scenes[i].picture, list(range(len(scenes))) * 5))
    np.testing.assert_array_equal(together, alone * 5)
    copy = pickle.loads(pickle.dumps(scenes))
    np.testing.assert_array_equal([copy[i].picture for i in range(len(copy))], alone)
    loader = DataLoader(
        scenes,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=2,
        collate_fn=lambda scene: scene.picture,
    )
    np.testing.assert_array_equal(list(loader), alone)


def test_many_shards_need_few_open_files(tmp_path: Path) -> None:
    for number in range(tar_module._OPEN_SHARDS + 10):
        put_tar(tmp_path / f"{number:03}.tar", sample("a", number, number))
    scenes = TarScenes(tmp_path, size_px=8)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for _ in range(2):
        assert [scenes[i].label for i in range(len(scenes))] == list(range(len(scenes)))
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + tar_module._OPEN_SHARDS


def test_a_damaged_picture_is_replaced_and_a_lost_shard_is_not(tmp_path: Path) -> None:
    path = put_tar(
        tmp_path / "a.tar",
        sample("1", 1, 1) | {"2.jpg": picture(2)[:-60], "2.json": b'{"label": 2}'}
        | {"3.jpg": b"no picture", "3.json": b'{"label": 3}'} | sample("4", 4, 4),
    )  # fmt: skip
    scenes = TarScenes(tmp_path, size_px=8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert scenes[1].label == 4  # the third is none either
    for number, warning in zip((2, 3), said, strict=True):
        assert f"a.tar: {number} can not be used: " in str(warning.message)
        assert str(warning.message).endswith(" The next picture stands in for it.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert scenes[1].label == 4
    os.truncate(path, 600)
    with pytest.raises(PictureStorageError, match=r"a.tar has become shorter"):
        scenes[3]
    lost = TarScenes.__new__(TarScenes)
    lost.__dict__ = {**scenes.__dict__, "_files": tar_module._OpenFiles((tmp_path / "gone.tar",))}
    with pytest.raises(PictureStorageError, match=r"gone.tar can not be read: No such file"):
        lost[3]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"", "a.json": b'{"label": "dog"}'}, r"a.tar: a has the label 'dog'; give a"),
        ({"a.jpg": b"", "a.json": b'{"label": 1.0}'}, r"label 1.0; give a class id"),
        ({"a.jpg": b"", "a.json": b'{"label": true}'}, r"label True; give a class id"),
        ({"a.jpg": b"", "a.json": b'{"label": 100000}'}, r"label 100000; give a class id"),
        ({"a.jpg": b"", "a.cls": b"n01440764"}, r"label 'n01440764'; give a class id"),
        ({"a.jpg": b"", "a.json": b"[1]"}, r"a .json without a JSON object"),
        ({"a.jpg": b"", "a.json": b"{"}, r"a.tar: a has a damaged .json"),
        ({"a.jpg": b"", "a.png": b""}, r"two members a that are the picture of a sample"),
        ({"a.json": b"{}"}, r"hold no pictures; accepted is"),
    ],
)
def test_wrong_members_are_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    put_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message):
        TarScenes(tmp_path)


def test_folders_without_shards_and_broken_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere; accepted is"):
        TarScenes(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no .tar files; accepted is"):
        TarScenes(tmp_path)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    with pytest.raises(ValueError, match=r"unpack a.tar.gz with gunzip"):
        TarScenes(tmp_path)
    path = put_tar(tmp_path / "b" / "a.tar", sample("1", 1, 1))
    whole = path.read_bytes()
    for broken in (whole[:700], whole[:512], (tmp_path / "a.tar.gz").read_bytes(), b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"a.tar does not end as a tar file does"):
            TarScenes(tmp_path / "b")
    path.write_bytes(b"x" * 2048 + bytes(1024))
    with pytest.raises(ValueError, match=r"a.tar is no whole tar file"):
        TarScenes(tmp_path / "b")


def test_shards_of_another_length_than_info_says_are_refused(shards: Path) -> None:
    put_tar(shards / "shard-000001.tar", sample("000004", 4, 1))
    with pytest.raises(ValueError, match=r"000001.tar holds 1 pictures, but info.json says .* 4"):
        TarScenes(shards)
    (shards / "info.json").write_text('{"images_per_shard": "many"}')
    with pytest.raises(ValueError, match=r"images_per_shard 'many'; give a whole number"):
        TarScenes(shards)


def test_labels_beyond_imagenet_are_refused(tmp_path: Path) -> None:
    put_tar(tmp_path / "a.tar", sample("1", 1, 999))
    assert TarScenes(tmp_path, classes="imagenet").class_names == CLASS_NAMES
    put_tar(tmp_path / "a.tar", sample("1", 1, 21840))
    with pytest.raises(ValueError, match=r"label 21840, which is no id of ImageNet-1k"):
        TarScenes(tmp_path, classes="imagenet")


@pytest.mark.parametrize("options", [{"split": "val"}, {"labels": "some"}, {"size_px": 0}])
def test_wrong_options_are_refused(shards: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        TarScenes(shards, **options)
