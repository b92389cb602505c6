"""Scenes made ahead are the scenes that would have been made in time, whatever the thread does."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.prefetch import SceneQueue


class NumberedScenes:
    """Scene i is called "i". Threads wait for `gate`; scenes in `broken` fail."""

    size_px, class_names, mask_class_names = 2, ("a",), ()

    def __init__(self, *, broken: Sequence[int] = ()) -> None:
        self.broken = broken
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> Scene:
        self.asked.append((index, threading.current_thread().name))
        if threading.current_thread() is not threading.main_thread():
            self.gate.wait(10)
        if index in self.broken:
            raise OSError(f"scene {index} is damaged")
        picture = np.zeros((2, 2, 3), dtype=np.uint8)
        return Scene(name=str(index), picture=picture, label=0, mask=None, target=None)

    def made_by_thread(self) -> list[int]:
        return [index for index, thread in self.asked if thread.startswith("scenes")]


def make_queue(scenes: NumberedScenes, *, threads: int, rows: int = 3, seed: int = 0) -> SceneQueue:
    queue = SceneQueue(scenes, threads=threads)
    for row in range(rows):
        queue.restart(row, np.random.default_rng(seed + row))
    return queue


def take_and_go_on(queue: SceneQueue, rows: Sequence[int] | np.ndarray) -> list[str]:
    taken = names(queue.take(rows))
    queue.draw_ahead()
    return taken


def names(taken: list[tuple[int, Scene]]) -> list[str]:
    assert [str(index) for index, _ in taken] == [scene.name for _, scene in taken]
    return [scene.name for _, scene in taken]


def settle(queue: SceneQueue) -> None:
    """Let the thread finish what it was given."""
    for _, making in queue._waiting.values():
        if making is not None:
            making.exception()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("finished", [True, False], ids=["fast threads", "slow threads"])
def test_the_order_is_that_of_scenes_made_in_time(finished: bool, threads: int) -> None:
    turns = [[0, 1, 2], [1], [0, 2], [2, 1, 0], [1], [1], [0, 1, 2]]
    scenes = NumberedScenes()
    ahead, plain = make_queue(scenes, threads=threads), make_queue(NumberedScenes(), threads=0)
    orders = [np.random.default_rng(row) for row in range(3)]
    for rows in turns:
        if finished:
            settle(ahead)
        expected = [str(orders[row].integers(1000)) for row in rows]
        assert names(plain.take(rows)) == expected
        assert take_and_go_on(ahead, np.array(rows)) == expected
    if finished:
        assert len(scenes.made_by_thread()) >= len(sum(turns[1:], []))
    ahead.close()


def test_threads_begin_when_they_are_told_and_only_for_rows_that_took() -> None:
    scenes = NumberedScenes()
    queue = make_queue(scenes, threads=1)
    queue.draw_ahead()
    queue.take([0, 2])
    assert not queue._waiting and not scenes.made_by_thread()
    queue.draw_ahead()
    queue.draw_ahead()  # once is enough
    settle(queue)
    assert sorted(queue._waiting) == [0, 2] and len(scenes.made_by_thread()) == 2
    queue.close()


def test_a_new_order_drops_what_waits_of_the_old_one() -> None:
    queue = make_queue(NumberedScenes(), threads=1)
    first = take_and_go_on(queue, [0, 1, 2])
    queue.restart(1, np.random.default_rng(1))
    second = names(queue.take([0, 1, 2]))
    other = make_queue(NumberedScenes(), threads=0)
    other.take([0, 1, 2])
    expected = names(other.take([0, 1, 2]))
    assert second == [expected[0], first[1], expected[2]]
    queue.close()


def test_an_error_is_raised_by_the_take_that_would_return_the_scene() -> None:
    order = [int(i) for i in np.random.default_rng(0).integers(1000, size=3)]
    for threads in (0, 1):
        queue = make_queue(NumberedScenes(broken=order[1:2]), threads=threads, rows=1)
        assert take_and_go_on(queue, [0]) == [str(order[0])]
        settle(queue)
        with pytest.raises(OSError, match=f"^scene {order[1]} is damaged$"):
            queue.take([0])
        assert names(queue.take([0])) == [str(order[2])]  # the order goes on behind it
        queue.close()


def test_what_the_thread_has_not_begun_is_made_by_the_taker() -> None:
    scenes = NumberedScenes()
    queue, plain = make_queue(scenes, threads=1), make_queue(NumberedScenes(), threads=0)
    scenes.gate.clear()  # the thread stays in its first scene, row 0's
    take_and_go_on(queue, [0, 1, 2]), plain.take([0, 1, 2])
    assert names(queue.take([1, 2])) == names(plain.take([1, 2]))
    scenes.gate.set()
    assert names(queue.take([0])) == names(plain.take([0]))
    queue.close()


def test_closing_stops_the_thread_and_loses_no_scene() -> None:
    scenes = NumberedScenes()
    queue, plain = make_queue(scenes, threads=1), make_queue(NumberedScenes(), threads=0)
    take_and_go_on(queue, [0, 1, 2]), plain.take([0, 1, 2])
    assert queue._threads is not None
    (thread,) = queue._threads._threads
    queue.close()
    assert not thread.is_alive()
    by_thread = len(scenes.made_by_thread())
    for _ in range(3):
        assert names(queue.take([2, 0])) == names(plain.take([2, 0]))
    assert len(scenes.made_by_thread()) == by_thread
    queue.close()


def test_without_threads_the_taker_makes_all() -> None:
    scenes = NumberedScenes()
    queue = make_queue(scenes, threads=0)
    take_and_go_on(queue, [0, 1, 2])
    assert len(scenes.asked) == 3 and not scenes.made_by_thread()


def test_a_copy_goes_on_with_the_same_scenes() -> None:
    queue = make_queue(NumberedScenes(), threads=1)
    take_and_go_on(queue, [0, 1, 2])
    twin = copy.deepcopy(queue, {id(queue.scenes): queue.scenes})
    for _ in range(2):
        assert names(twin.take([0, 1, 2])) == names(queue.take([0, 1, 2]))
    queue.close()


def test_a_negative_number_of_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="draw_ahead is -1; give threads, an integer, at least 0"):
        SceneQueue(NumberedScenes(), threads=-1)
