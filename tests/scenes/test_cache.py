"""Kept scenes are the scenes, and no more of them are kept than was said."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.cache import CachedScenes
from canvit_gym.scenes.emoji import EmojiScenes

SCENE_BYTES = 4 * 4 * (3 + 1)


class CountedScenes:
    """Scenes of 4 x 4 pixels with the value of their index, and how often each was asked for."""

    size_px, class_names, mask_class_names = 4, ("a",), ("b", "c")

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Scene:
        self.asked.append(int(index))
        if not 0 <= index < 100:
            raise IndexError(f"index is {index}")
        picture = np.full((4, 4, 3), index, dtype=np.uint8)
        return Scene(name=str(index), picture=picture, label=0, mask=picture[..., 0], target=None)


def test_it_stands_in_for_its_source() -> None:
    source = EmojiScenes(split="test")
    scenes = CachedScenes(source, max_bytes=2**20)
    assert len(scenes) == len(source) and scenes.size_px == source.size_px
    assert scenes.class_names == source.class_names
    assert scenes.mask_class_names == source.mask_class_names
    for _ in range(2):
        kept, made = scenes[np.int64(5)], source[5]
        assert (kept.picture == made.picture).all() and (kept.mask == made.mask).all()
        assert (kept.name, kept.label, kept.objects) == (made.name, made.label, made.objects)
    with pytest.raises(IndexError, match="index is 100000"):
        scenes[100_000]


def test_the_longest_unasked_for_scene_gives_way() -> None:
    source = CountedScenes()
    scenes = CachedScenes(source, max_bytes=3 * SCENE_BYTES)
    for index in (0, 1, 2, 0, 3, 0, 2, 1):  # 3 drives out 1, and 1 then 3
        assert (scenes[index].picture == index).all()
    assert source.asked == [0, 1, 2, 3, 1]
    scenes[3]
    assert source.asked[-1] == 3


def test_what_is_larger_than_the_limit_is_not_kept() -> None:
    source = CountedScenes()
    scenes = CachedScenes(source, max_bytes=SCENE_BYTES - 1)
    assert scenes[7].name == scenes[7].name == "7" and source.asked == [7, 7]
    assert not scenes._kept and scenes._bytes == 0
    with pytest.raises(ValueError, match="max_bytes is 0; give at least 1"):
        CachedScenes(source, max_bytes=0)


def test_kept_pixels_can_not_be_changed() -> None:
    scene = CachedScenes(CountedScenes(), max_bytes=1000)[1]
    for pixels in (scene.picture, scene.mask):
        with pytest.raises(ValueError, match="read-only"):
            pixels[:] = 0


def test_copies_go_on_with_the_limit_but_keep_nothing_yet() -> None:
    scenes = CachedScenes(CountedScenes(), max_bytes=1000)
    scenes[1]
    for again in (copy.deepcopy(scenes), pickle.loads(pickle.dumps(scenes))):
        assert again.max_bytes == 1000 and again._bytes == 0
        assert again[1].name == "1" and again.scenes.asked == [1, 1]


def test_a_scene_that_failed_is_asked_for_again() -> None:
    scenes = CachedScenes(CountedScenes(), max_bytes=1000)
    for _ in range(2):
        with pytest.raises(IndexError):
            scenes[100]
    assert scenes._bytes == 0


def test_threads_may_share_it() -> None:
    scenes = CachedScenes(CountedScenes(), max_bytes=10 * SCENE_BYTES)
    start = threading.Barrier(4)

    def ask(seed: int) -> bool:
        start.wait()
        indices = np.random.default_rng(seed).integers(20, size=2000).tolist()
        return all(scenes[i].name == str(i) for i in indices)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))
    assert scenes._bytes == len(scenes._kept) * SCENE_BYTES == 10 * SCENE_BYTES
