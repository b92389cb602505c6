"""Scenes made ahead of time: each row's next one by threads, while the model runs."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from canvit_gym.scenes.base import Scene, Scenes


class SceneQueue:
    """Which scenes the rows of an environment play, each row in a random order of its own.

    With `threads`, a row that took a scene has its next one made once `draw_ahead` is called, so
    that one more scene a row is in memory. That changes no result: indices are drawn row by row
    from the row's own generator, and what making a scene raises is raised by the `take` that would
    return it.
    """

    def __init__(self, scenes: Scenes, *, threads: int) -> None:
        if threads < 0:
            raise ValueError(f"{threads} threads can not make scenes; give 0 for none, or more.")
        self.scenes = scenes
        self._orders: dict[int, np.random.Generator] = {}
        self._waiting: dict[int, tuple[int, Future[Scene] | None]] = {}
        self._took: list[int] = []
        self._threads = ThreadPoolExecutor(threads, "scenes") if threads else None

    def __contains__(self, row: int) -> bool:
        """Whether the row has an order."""
        return row in self._orders

    def restart(self, row: int, order: np.random.Generator) -> None:
        """Give the row a new order; what waits of the old one is dropped."""
        self._orders[row] = order
        _, making = self._waiting.pop(row, (0, None))
        if making is not None:
            making.cancel()

    def take(self, rows: Iterable[int]) -> list[tuple[int, Scene]]:
        """The next scene of each row, with its index."""
        rows = [int(row) for row in rows]
        waiting = self._waiting
        taken = [waiting.pop(row) if row in waiting else (self._draw(row), None) for row in rows]
        scenes = [(index, self._finish(index, making)) for index, making in taken]
        self._took += rows
        return scenes

    def draw_ahead(self) -> None:
        """Let the threads begin with the next scene of each row that took one. Call it when the
        model is about to run: until then whoever took them has use for every core."""
        if self._threads is not None:
            for row in self._took:
                if row not in self._waiting:
                    index = self._draw(row)
                    making = self._threads.submit(self.scenes.__getitem__, index)
                    self._waiting[row] = index, making
        self._took = []

    def close(self) -> None:
        """End the threads; from now on scenes are made when they are taken."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy goes on with the same scenes, but has no threads."""
        waiting = {row: (index, None) for row, (index, _) in self._waiting.items()}
        return {**self.__dict__, "_waiting": waiting, "_threads": None}

    def _draw(self, row: int) -> int:
        return int(self._orders[row].integers(len(self.scenes)))

    def _finish(self, index: int, making: Future[Scene] | None) -> Scene:
        # What no thread has begun is made here, rather than waited for.
        if making is None or making.cancel():
            return self.scenes[index]
        return making.result()
