"""Scenes kept in memory: a decoded photograph costs milliseconds, a kept one nothing."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import partial
from operator import index as as_int
from threading import Lock
from typing import Any

import numpy as np

from canvit_gym.scenes.base import Scene, Scenes


class CachedScenes:
    """The same scenes, of which those asked for last are kept, up to `max_bytes` of pixels.

    A 512 px photograph takes 0.75 MiB, with a mask 1 MiB, with depth another 1 MiB. Pixels come
    read-only, because whoever asks for a scene again gets the same arrays.
    """

    def __init__(self, scenes: Scenes, *, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}; give at least 1, or leave the cache out.")
        self.scenes, self.max_bytes = scenes, max_bytes
        self.size_px = scenes.size_px
        self.class_names, self.mask_class_names = scenes.class_names, scenes.mask_class_names
        self.exchangeable = getattr(scenes, "exchangeable", False)
        self.layout: str = getattr(scenes, "layout", "")
        self._kept: OrderedDict[int, Scene] = OrderedDict()  # the longest unasked for comes first
        self._bytes = 0
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy keeps nothing yet."""
        return partial(CachedScenes, max_bytes=self.max_bytes), (self.scenes,)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Scene:
        number = as_int(index)
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        scene = _read_only(self.scenes[index])  # without the lock, so that threads decode at once
        with self._lock:
            self._keep(number, scene)
        return scene

    def _keep(self, number: int, scene: Scene) -> None:
        if number in self._kept:  # another thread was faster
            return
        self._kept[number] = scene
        self._bytes += _size(scene)
        while self._bytes > self.max_bytes:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def _read_only(scene: Scene) -> Scene:
    def view(pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.view()
        pixels.flags.writeable = False
        return pixels

    mask = None if scene.mask is None else view(scene.mask)
    depth = None if scene.depth is None else view(scene.depth)
    return replace(scene, picture=view(scene.picture), mask=mask, depth=depth)


def _size(scene: Scene) -> int:
    pixels = (scene.picture, scene.mask, scene.depth)
    return sum(values.nbytes for values in pixels if values is not None)
