"""Scenes made ahead of time: each row's next one by threads, while the model runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

import numpy as np

from canvit_gym.errors import require_int
from canvit_gym.scenes.base import Scene, Scenes

_QUEUES: WeakSet[SceneQueue] = WeakSet()
"""Every queue of this process: a fork copies them, and not the threads that they wait for."""


class SceneQueue:
    """Which scenes the rows of an environment play, each row in a random order of its own.

    With `threads`, a row that took a scene has its next one made once `draw_ahead` is called, so
    that one more scene a row is in memory. That changes no result: indices are drawn row by row
    from the row's own generator, and what making a scene raises is raised by the `take` that would
    return it.
    """

    def __init__(self, scenes: Scenes, *, threads: int) -> None:
        threads = require_int("draw_ahead", threads, at_least=0, what="threads")
        self.scenes = scenes
        self._orders: dict[int, np.random.Generator] = {}
        self._waiting: dict[int, tuple[int, Future[Scene] | None]] = {}
        self._took: list[int] = []
        self._threads = ThreadPoolExecutor(threads, "scenes") if threads else None
        _QUEUES.add(self)

    def __contains__(self, row: int) -> bool:
        """Whether the row has an order."""
        return row in self._orders

    def restart(self, row: int, order: np.random.Generator) -> None:
        """Give the row a new order; what waits of the old one is dropped."""
        self._orders[row] = order
        _, making = self._waiting.pop(row, (0, None))
        if making is not None:
            making.cancel()

    def next(self, rows: Iterable[int]) -> list[tuple[int, Scene]]:
        """The next scene of each row, with its index: the same again until `took` says that the
        rows took them. Where one can not be made, what that raised is raised, and all these rows
        go on behind it."""
        rows = [int(row) for row in rows]
        for row in rows:
            if row not in self._waiting:
                self._waiting[row] = self._draw(row), None
        try:
            return [(index, self._finish(index, making)) for index, making in
                    (self._waiting[row] for row in rows)]  # fmt: skip
        except Exception:
            for row in rows:
                del self._waiting[row]
            raise

    def took(self, rows: Iterable[int]) -> None:
        """Go on to the scene behind the next one of each row."""
        for row in (int(row) for row in rows):
            self._waiting.pop(row, None)
            self._took.append(row)

    def take(self, rows: Iterable[int]) -> list[tuple[int, Scene]]:
        """The next scene of each row, with its index, taken."""
        rows = list(rows)
        scenes = self.next(rows)
        self.took(rows)
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
        return {**self.__dict__, "_waiting": self._indices(), "_threads": None}

    def forget_threads(self) -> None:
        """Go on without the threads, which a forked process does not have."""
        self._waiting, self._threads = self._indices(), None

    def _indices(self) -> dict[int, tuple[int, Future[Scene] | None]]:
        """Indices that wait, without what is being made."""
        return {row: (index, None) for row, (index, _) in self._waiting.items()}

    def _draw(self, row: int) -> int:
        return int(self._orders[row].integers(len(self.scenes)))

    def _finish(self, index: int, making: Future[Scene] | None) -> Scene:
        # What no thread has begun is made here, rather than waited for.
        if making is None or making.cancel():
            return self.scenes[index]
        return making.result()


def _after_fork() -> None:
    for queue in list(_QUEUES):
        queue.forget_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
