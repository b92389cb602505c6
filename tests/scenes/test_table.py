"""Tables of Hugging Face `datasets`: which columns are read, and what labels mean."""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from canvit_gym.preprocess import PictureStorageError, preprocess_picture
from canvit_gym.scenes.base import Scenes, require_scenes
from canvit_gym.scenes.imagenet import CLASS_NAMES, WNIDS
from canvit_gym.scenes.table import TableScenes

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((24, 16), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def table(
    seeds: Sequence[int], labels: Sequence[Any] | None = None, names: Sequence[str] | None = None
) -> Any:
    """A table as `datasets` writes it, with its description where class names are given."""
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": picture(s), "path": f"{s}.jpg"} for s in seeds], IMAGE)
    }
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    made = pa.table(columns)
    if names is None:
        return made
    label = {"names": list(names), "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label}
    return made.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def put(path: Path, made: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(made, path, row_group_size=2)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, made.schema) as writer:
            writer.write_table(made, max_chunksize=2)
    return path


@pytest.fixture(params=["parquet", "arrow"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_scenes_are_the_rows_of_all_files(tmp_path: Path, kind: str) -> None:
    put(tmp_path / f"data-00000-of-00002.{kind}", table(range(5), [0, 1, None, 2, -1]))
    put(tmp_path / f"data-00001-of-00002.{kind}", table(range(5, 8), [3, 0, 1]))
    scenes: Scenes = TableScenes(tmp_path, size_px=16)
    require_scenes(scenes)
    assert [scenes[i].label for i in range(len(scenes))] == [0, 1, -1, 2, -1, 3, 0, 1]
    assert scenes.class_names == ("0", "1", "2", "3")
    for i in range(8):
        expected = preprocess_picture(Image.open(io.BytesIO(picture(i))), 16)
        np.testing.assert_array_equal(scenes[i].picture, expected)
    assert scenes[6].name == "data-00001-of-00002/1"
    labelled = TableScenes(tmp_path, size_px=16, labels="required")
    assert labelled.labels.tolist() == [0, 1, 2, 3, 0, 1]
    np.testing.assert_array_equal(labelled[2].picture, scenes[3].picture)
    parts = [TableScenes(tmp_path, split=s) for s in ("train", "test")]  # type: ignore[arg-type]
    names = [{p[i].name for i in range(len(p))} for p in parts]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 8


def test_copies_and_worker_processes_read_the_same(tmp_path: Path, kind: str) -> None:
    put(tmp_path / f"a.{kind}", table(range(7), range(7)))
    scenes = TableScenes(tmp_path, size_px=16)
    alone = [scenes[i].picture for i in range(7)]
    copy = pickle.loads(pickle.dumps(scenes))
    np.testing.assert_array_equal([copy[i].picture for i in range(7)], alone)
    loader = DataLoader(
        scenes,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=2,
        collate_fn=lambda scene: scene.picture,
    )
    np.testing.assert_array_equal(list(loader), alone)


def test_orders_stay_within_groups(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", table(range(8), range(8)))
    scenes = TableScenes(tmp_path, size_px=8)
    order = scenes.order(seed=3, groups_at_once=1)
    assert sorted(order) == list(range(8)) and sorted(scenes.order(seed=3)) == list(range(8))
    assert all(a // 2 == b // 2 for a, b in order.reshape(-1, 2))
    assert (scenes.order(seed=3, groups_at_once=1) == order).all()
    assert tuple(order) != tuple(scenes.order(seed=3, epoch=1, groups_at_once=1))


def test_the_description_names_columns_and_classes(tmp_path: Path) -> None:
    made = pa.table(
        {
            "n": pa.array([7, 8]),
            "photo": pa.array([picture(1), picture(2)]),
            "thumbnail": pa.array([b"", b""]),
            "kind": pa.array([1, 0]),
        }
    )
    put(tmp_path / "a.arrow", made)
    kind = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    features = {"photo": {"_type": "Image"}, "kind": kind, "n": {"dtype": "int64"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": features}))
    scenes = TableScenes(tmp_path, size_px=8)
    assert scenes.class_names == ("cat", "dog") and scenes.labels.tolist() == [1, 0]
    (tmp_path / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match=r"columns n, photo, thumbnail and 1 more, none of which"):
        TableScenes(tmp_path)


def test_pictures_may_lie_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(picture(1))
    rows = [{"bytes": None, "path": "1.jpg"}, {"bytes": None, "path": None}]
    put(tmp_path / "a.parquet", pa.table({"image": pa.array(rows, IMAGE)}))
    scenes = TableScenes(tmp_path, size_px=8)
    assert scenes[0].label == -1 and scenes.class_names == ()
    with pytest.raises(PictureStorageError, match=r"a.parquet: row 1 holds no picture"):
        scenes[1]


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (None, [3, -1, 999], [3, -1, 999]),
        (CLASS_NAMES, [3, -1, 999], [3, -1, 999]),
        (("n02123045", WNIDS[0]), [0, 1, -1], [281, 0, -1]),
        (("Tench", "golf ball", "cassette player"), [2, 0, -1], [482, 0, -1]),
    ],
)
def test_labels_become_those_of_imagenet(
    tmp_path: Path, names: Any, labels: list[int], expected: list[int]
) -> None:
    put(tmp_path / "a.parquet", table(range(3), labels, names))
    scenes = TableScenes(tmp_path, classes="imagenet")
    assert scenes.labels.tolist() == expected and scenes.class_names == CLASS_NAMES


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (None, [1000], r"label 1000, which is no id of ImageNet-1k"),
        (("cat", "tench"), [1], r"classes \(cat\) that are neither wnids nor names of ImageNet"),
        (("crane", "tench"), [1], r"classes \(crane\) that are neither"),  # there are two cranes
        (("tench",), [1], r"label 1, but only 1 class names"),
        (None, [100_000], r"label 100000; give class ids from 0"),
        (None, [-2], r"label -2; give class ids"),
    ],
)
def test_other_labels_are_refused(
    tmp_path: Path, names: Any, labels: list[int], message: str
) -> None:
    put(tmp_path / "a.parquet", table([0], labels, names))
    with pytest.raises(ValueError, match=message):
        TableScenes(tmp_path, classes="imagenet")


def test_a_damaged_picture_is_replaced(tmp_path: Path, kind: str) -> None:
    made = pa.table({"image": pa.array([b"no picture", picture(1)])})
    put(tmp_path / f"a.{kind}", made)
    with pytest.warns(UserWarning, match=rf"a.{kind}: row 0 can not be used: .* The next picture"):
        assert TableScenes(tmp_path, size_px=8)[0].name == "a/1"


def test_other_files_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=r"holds no tables; accepted is a folder of .parquet"):
        TableScenes(tmp_path)
    path = put(tmp_path / f"a.{kind}", table(range(3), range(3)))
    put(tmp_path / f"b.{kind}", table(range(3)))
    with pytest.raises(ValueError, match=rf"b.{kind} has no column 'label', which a.{kind} has"):
        TableScenes(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=rf"a.{kind} is no whole Parquet or Arrow file"):
        TableScenes(tmp_path)
    put(path, table([]))
    put(tmp_path / f"b.{kind}", table([]))
    with pytest.raises(ValueError, match=r"hold no pictures; accepted is"):
        TableScenes(tmp_path)
    put(path, table([1]))
    (tmp_path / f"b.{kind}").unlink()
    with pytest.raises(ValueError, match=r"None of the 1 pictures .* has a label"):
        TableScenes(tmp_path, labels="required")


def test_without_pyarrow_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a.parquet", table([1]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"Reading Parquet and Arrow files needs pyarrow"):
        TableScenes(tmp_path)
