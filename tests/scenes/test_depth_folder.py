"""Folders of pictures and depth: units, what is unknown, geometry, refusals."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from canvit_gym.preprocess import UnreadablePictureError
from canvit_gym.scenes.base import Scenes
from canvit_gym.scenes.cache import CachedScenes
from canvit_gym.scenes.depth_folder import DepthFolderScenes

SHAPE = (12, 20)


def put(root: Path, name: str, depth: np.ndarray | None = None, *, ending: str = ".png") -> None:
    for folder in ("rgb", "depth"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "rgb" / f"{name}.png")
    depth = np.full(SHAPE, 1500, dtype=np.uint16) if depth is None else depth
    if ending == ".npy":
        np.save(root / "depth" / f"{name}.npy", depth)
    else:
        Image.fromarray(depth).save(root / "depth" / f"{name}{ending}")


def test_millimetres_and_metres_become_metres(tmp_path: Path) -> None:
    levels = np.random.default_rng(1).integers(1, 9999, SHAPE, dtype=np.uint16)
    levels[0, 0] = levels[5, 9] = 0
    put(tmp_path, "a", levels)
    metres = levels / 1000
    metres[5, 9], metres[0, 0] = np.nan, np.inf
    put(tmp_path, "b", metres, ending=".npy")
    scenes: Scenes = DepthFolderScenes(tmp_path, size_px=12)
    a, b = pickle.loads(pickle.dumps(scenes))[0], CachedScenes(scenes, max_bytes=10**6)[1]
    for scene in (a, b):
        assert scene.depth is not None and scene.depth.dtype == np.float32
        expected = np.where(levels == 0, np.nan, levels / 1000)[:, 4:16]  # the centre
        np.testing.assert_allclose(scene.depth, expected, rtol=1e-6)
        assert scene.label == -1 and scene.mask is None and scene.picture.shape == (12, 12, 3)
    assert b.depth is not None and not b.depth.flags.writeable
    assert (a.name, b.name) == ("rgb/a.png", "rgb/b.png")


def test_the_unit_of_a_png_may_be_another(tmp_path: Path) -> None:
    put(tmp_path, "a")
    scene = DepthFolderScenes(tmp_path, size_px=12, metres_per_level=1 / 256)[0]
    assert scene.depth is not None and (scene.depth == 1500 / 256).all()


@pytest.mark.parametrize("fit", ["crop", "squish"])
def test_depth_lies_on_its_picture(tmp_path: Path, fit: Any) -> None:
    left = np.full(SHAPE, 2000, dtype=np.uint16)
    left[:, : SHAPE[1] // 2] = 1000
    put(tmp_path, "a", left)
    Image.fromarray((left < 1500).astype(np.uint8) * 255).save(tmp_path / "rgb" / "a.png")
    scene = DepthFolderScenes(tmp_path, size_px=24, fit=fit)[0]
    assert scene.depth is not None
    assert ((scene.picture[..., 0] > 127) == (scene.depth < 1.5)).all()


@pytest.mark.parametrize(
    ("depth", "ending", "message"),
    [
        (np.ones(SHAPE, np.uint8), ".png", "mode is L, but depth is 16-bit"),
        (np.ones(SHAPE, np.int64), ".npy", r"int64 \[12, 20\], but depth is floats"),
        (np.ones((*SHAPE, 1)), ".npy", r"float64 \[12, 20, 1\], but depth is floats"),
        (np.array([[{}]]), ".npy", "no whole .npy file of numbers"),
        (np.ones((20, 12)), ".npy", "20 rows and 12 columns but its picture .* has 12 and 20"),
        (np.ones((0, 12)), ".npy", "no whole .npy file|has 0 values"),
    ],
)
def test_what_is_no_depth_is_refused_at_construction(
    tmp_path: Path, depth: np.ndarray, ending: str, message: str
) -> None:
    put(tmp_path, "a", depth, ending=ending)
    with pytest.raises(UnreadablePictureError, match=message):
        DepthFolderScenes(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 90, 1000])
def test_cut_arrays_are_refused(tmp_path: Path, keep: int) -> None:
    put(tmp_path, "a", np.ones(SHAPE), ending=".npy")
    path = tmp_path / "depth" / "a.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnreadablePictureError, match=r"a\.npy can not be used: it is no whole"):
        DepthFolderScenes(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_negative_depth_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a", -np.ones(SHAPE), ending=".npy")
    with pytest.raises(UnreadablePictureError):
        DepthFolderScenes(tmp_path)[0]


def test_lonely_and_double_files_and_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*rgb; accepted is"):
        DepthFolderScenes(tmp_path)
    put(tmp_path, "a")
    put(tmp_path, "b")
    (tmp_path / "depth" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"1 of the names .*\(b\) have a picture or a depth map"):
        DepthFolderScenes(tmp_path)
    put(tmp_path, "b")
    np.save(tmp_path / "depth" / "b.npy", np.ones(SHAPE))
    with pytest.raises(ValueError, match="two files of one name"):
        DepthFolderScenes(tmp_path)


@pytest.mark.parametrize("options", [{"split": "val"}, {"fit": "x"}, {"metres_per_level": 0}])
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    put(tmp_path, "a")
    with pytest.raises(ValueError, match=next(iter(options))):
        DepthFolderScenes(tmp_path, **options)
