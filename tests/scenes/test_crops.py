"""Random crops are of whole pictures, whatever stores them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from canvit_gym.scenes.layouts import open_scenes
from canvit_gym.scenes.stored import StoredScenes

SIZE = (90, 30)  # three squares in a row: red, green, blue


def picture(*, damaged: bool = False) -> bytes:
    values = np.zeros((30, 90, 3), dtype=np.uint8)
    for place in range(3):
        values[:, 30 * place : 30 * place + 30, place] = 255
    data = io.BytesIO()
    Image.fromarray(values).save(data, "PNG")
    return data.getvalue()[:-40] if damaged else data.getvalue()


def class_folders(root: Path) -> None:
    for i, wnid in enumerate(("n01440764", "n01443537")):
        (root / wnid).mkdir(parents=True)
        (root / wnid / f"{i}.png").write_bytes(picture())


def official(root: Path) -> None:
    root.mkdir()
    for i in (1, 2):
        (root / f"ILSVRC2012_val_{i:08d}.JPEG").write_bytes(picture())
    (root / "labels.txt").write_text("0\n1\n")


def shards(root: Path) -> None:
    root.mkdir()
    with tarfile.open(root / "shard-000000.tar", "w") as file:
        for i in range(2):
            for name, data in ((f"{i}.png", picture()), (f"{i}.json", b'{"label": %d}' % i)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))


def table(root: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    root.mkdir()
    rows = [{"bytes": picture(), "path": None} for _ in range(2)]
    parquet.write_table(
        pyarrow.table({"image": rows, "label": [0, 1]}), root / "train-00000-of-00001.parquet"
    )


def parts(root: Path) -> None:
    for part in ("train", "val"):
        class_folders(root / part)


@pytest.mark.parametrize("make", [class_folders, official, shards, table, parts])
def test_every_source_gives_whole_pictures(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "set")
    scenes = open_scenes(tmp_path / "set", size_px=8, split="all")
    assert scenes.has_whole_pictures
    seen: list[tuple[int, int]] = []

    def rightmost(image: Image.Image) -> np.ndarray:
        seen.append(image.size)
        return np.array(image.crop((60, 0, 90, 30)).resize((8, 8)))

    for i in range(len(scenes)):
        scene, plain = scenes.cropped(i, rightmost), scenes[i]
        assert (scene.name, scene.label) == (plain.name, plain.label)
        # At their middles, because antialiasing mixes colours at edges.
        assert scene.picture[4, 4].tolist() == [0, 0, 255]
        assert plain.picture[4, 4].tolist() == [0, 255, 0]
    assert set(seen) == {SIZE}


def test_a_damaged_picture_is_replaced_alike(tmp_path: Path) -> None:
    class_folders(tmp_path)
    scenes = open_scenes(tmp_path, size_px=8)
    (tmp_path / "n01440764" / "0.png").write_bytes(picture(damaged=True))
    with pytest.warns(UserWarning, match="The next picture stands in for it"):
        scene = scenes.cropped(0, lambda image: np.array(image.resize((8, 8))))
    assert scene.label == 1


def test_scenes_that_have_masks_do_not(ade20k_folder: Path) -> None:
    from canvit_gym.scenes.ade20k import ADE20KScenes

    assert not ADE20KScenes(ade20k_folder, split="test", size_px=32).has_whole_pictures
    assert not StoredScenes.has_whole_pictures
