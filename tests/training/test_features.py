"""Feature shards hold what the teacher sees in each scene of the index, or say why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from canvit_gym.scenes.folder import FolderScenes
from canvit_gym.training import features
from canvit_gym.training.features import (
    FeatureIndex,
    FeatureShards,
    check,
    content_hash,
    export,
    read_index,
    write_index,
)
from canvit_gym.training.teachers import TeacherFeatures

pytest.importorskip("pyarrow")


class MeanColours:
    """A teacher of three features: the mean colour of each 8 px patch."""

    name, dim, classifier = "mean-colours", 3, None

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self.calls = scale, 0

    def patch_grid(self, size_px: int) -> int:
        return size_px // 8

    def __call__(self, pictures: Tensor) -> TeacherFeatures:
        self.calls += 1
        grid = self.patch_grid(pictures.shape[1])
        cells = pictures.float().unflatten(1, (grid, 8)).unflatten(3, (grid, 8))
        patches = cells.mean((2, 4)).flatten(1, 2) * self.scale
        return TeacherFeatures(patches=patches, cls=patches.mean(1))


@pytest.fixture
def scenes(tmp_path: Path) -> FolderScenes:
    rng = np.random.default_rng(0)
    for number in range(10):
        folder = tmp_path / "pictures" / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        picture.save(folder / f"{number}.png")
    return FolderScenes(tmp_path / "pictures", size_px=16)


@pytest.fixture
def index(scenes: FolderScenes, tmp_path: Path) -> FeatureIndex:
    return write_index(scenes, tmp_path / "index.parquet", seed=5)


def run_export(index: FeatureIndex, scenes: FolderScenes, out: Path, **options: object) -> None:
    asked = {"shard_size": 4, "batch_size": 3, "bfloat16": False, "show": False, **options}
    export(index, scenes, MeanColours(), out, **asked)  # type: ignore[arg-type]


def test_index_holds_every_scene_once_in_an_order_of_the_seed(
    index: FeatureIndex, scenes: FolderScenes, tmp_path: Path
) -> None:
    assert sorted(index.scenes) == list(range(10)) != list(index.scenes)
    for number, name, label in zip(index.scenes, index.names, index.labels, strict=True):
        assert (scenes[number].name, scenes[number].label) == (name, label)
    again = write_index(scenes, tmp_path / "again.parquet", seed=5)
    assert list(again.scenes) == list(index.scenes)
    other = write_index(scenes, tmp_path / "other.parquet")
    assert other.sha256 != index.sha256


def test_index_is_never_overwritten(
    index: FeatureIndex, scenes: FolderScenes, tmp_path: Path
) -> None:
    before = (tmp_path / "index.parquet").read_bytes()
    with pytest.raises(FileExistsError, match="shards may depend on it"):
        write_index(scenes, tmp_path / "index.parquet")
    assert (tmp_path / "index.parquet").read_bytes() == before


def test_each_row_has_the_features_of_its_scene(
    index: FeatureIndex, scenes: FolderScenes, tmp_path: Path
) -> None:
    run_export(index, scenes, tmp_path / "out")
    shards = FeatureShards(tmp_path / "out")
    assert (len(shards), shards.teacher, shards.dim, shards.patch_grid) == (
        10, "mean-colours", 3, 2
    )  # fmt: skip
    rows = [9, 0, 4]
    found = shards.read(rows)
    assert found.patches.dtype == found.cls.dtype == torch.float16
    pictures = [scenes[int(index.scenes[row])].picture for row in rows]
    wanted = MeanColours()(torch.from_numpy(np.stack(pictures)))
    # float16 has 11 bits, so values below 256 are off by at most 1/16.
    torch.testing.assert_close(found.patches.float(), wanted.patches, atol=1 / 16, rtol=0)
    torch.testing.assert_close(found.cls.float(), wanted.cls, atol=1 / 16, rtol=0)
    assert [int(shards.content[row]) for row in rows] == [content_hash(p) for p in pictures]
    assert check(tmp_path / "out") == (3, 10, [])


def test_only_missing_shards_are_made(
    index: FeatureIndex, scenes: FolderScenes, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_export(index, scenes, out, shards=[1])
    before = (out / "shard-000001.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match="shard-000000.safetensors is missing"):
        FeatureShards(out)
    run_export(index, scenes, out, shards=[0])
    with pytest.raises(ValueError, match="features of 8 of the 10 scenes"):
        FeatureShards(out)
    run_export(index, scenes, out)
    assert (out / "shard-000001.safetensors").stat().st_mtime_ns == before
    assert check(out).rows == 10
    with pytest.raises(ValueError, match="no shard 3.*0 .. 2"):
        run_export(index, scenes, out, shards=[3])


def test_an_interrupted_shard_leaves_nothing(
    index: FeatureIndex, scenes: FolderScenes, tmp_path: Path
) -> None:
    class Failing(MeanColours):
        def __call__(self, pictures: Tensor) -> TeacherFeatures:
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().__call__(pictures)

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        export(index, scenes, Failing(), out, shard_size=4, batch_size=3, show=False)
    assert {path.name for path in out.iterdir()} == {"index.parquet", "shard-000000.safetensors"}


def test_a_picture_that_can_not_be_decoded_fails_alone(
    index: FeatureIndex, scenes: FolderScenes, tmp_path: Path
) -> None:
    path = tmp_path / "pictures" / index.names[5]
    path.write_bytes(path.read_bytes()[:-40])
    run_export(index, FolderScenes(tmp_path / "pictures", size_px=16), tmp_path / "out")
    assert check(tmp_path / "out").failed == [5]
    found = FeatureShards(tmp_path / "out").read([4, 5, 6])
    assert found.cls.isnan().all(dim=1).tolist() == [False, True, False]


def test_other_pictures_teachers_and_sizes_are_refused(
    index: FeatureIndex, scenes: FolderScenes, tmp_path: Path
) -> None:
    run_export(index, scenes, tmp_path / "out", shards=[0])
    larger = FolderScenes(tmp_path / "pictures", size_px=32)
    with pytest.raises(ValueError, match="picture_size_px 16, not 32"):
        run_export(index, larger, tmp_path / "out")
    other = write_index(scenes, tmp_path / "other.parquet", seed=6)
    with pytest.raises(ValueError, match="index_sha256"):
        run_export(other, scenes, tmp_path / "out")
    run_export(index, scenes, tmp_path / "out")
    (tmp_path / "out" / "index.parquet").write_bytes(other.content)
    with pytest.raises(ValueError, match="not the index that the shards"):
        check(tmp_path / "out")
    (tmp_path / "pictures" / "class0" / "0.png").rename(tmp_path / "pictures" / "class0" / "a.png")
    moved = FolderScenes(tmp_path / "pictures", size_px=16)
    with pytest.raises(ValueError, match="give the pictures that the index was made of"):
        run_export(index, moved, tmp_path / "else")


def test_changed_pictures_are_refused(
    index: FeatureIndex, scenes: FolderScenes, tmp_path: Path
) -> None:
    run_export(index, scenes, tmp_path / "out")
    shards = FeatureShards(tmp_path / "out")
    shards.require_same_pictures(scenes, count=10)
    Image.new("RGB", (16, 16)).save(tmp_path / "pictures" / index.names[3])
    with pytest.raises(ValueError, match=f"{index.names[3]} is another picture"):
        shards.require_same_pictures(scenes, count=10)


def test_values_beyond_float16_are_refused(
    index: FeatureIndex, scenes: FolderScenes, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="float16 can not hold"):
        export(index, scenes, MeanColours(1e4), tmp_path / "out", bfloat16=False, show=False)
    assert not list((tmp_path / "out").glob("shard*"))


def test_damaged_shards_are_named(
    index: FeatureIndex, scenes: FolderScenes, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_export(index, scenes, out)
    path = out / "shard-000001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="shard-000001.*truncated"):
        check(out)
    path.write_bytes(whole)
    tensors, record = load_file(path), features._metadata(path)
    tensors["cls"][2, 1] = torch.nan
    save_file(tensors, path, metadata=record)
    with pytest.raises(ValueError, match="shard-000001.*cls are not finite in 1 rows"):
        check(out)


def test_no_index_and_no_shards_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="canvit-gym features index"):
        read_index(tmp_path / "none.parquet")
    with pytest.raises(FileNotFoundError, match="canvit-gym features export"):
        FeatureShards(tmp_path)
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(ValueError, match="no index of scenes"):
        read_index(tmp_path / "text.parquet")
