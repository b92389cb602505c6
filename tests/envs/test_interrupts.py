"""Interrupted at any point, an environment stands before the step or after it, never between."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from canvit_gym.envs.vector_env import CanViTVectorEnv

MakeVector = Callable[..., CanViTVectorEnv]
PACKAGE = "canvit_gym"


class Interrupter:
    """Raises KeyboardInterrupt at the n-th call of one of this package's functions."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        if event == "call" and PACKAGE in frame.f_code.co_filename:
            self.calls += 1
            if self.calls == self.at:
                raise KeyboardInterrupt

    def run(self, function: Callable[[], Any]) -> bool:
        """Whether the function ran to its end."""
        sys.setprofile(self)
        try:
            function()
        except KeyboardInterrupt:
            return False
        finally:
            sys.setprofile(None)
        return True


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
def test_a_step_happens_whole_or_not_at_all(make_vector: MakeVector, mode: str) -> None:
    def make() -> CanViTVectorEnv:
        envs = make_vector(2, budget=2, action="tile", autoreset_mode=mode, draw_ahead=0)
        envs.reset(seed=0)
        envs.step(np.array([1, 2]))
        return envs

    actions = np.array([3, 4])
    reference = make()
    before = reference.episode.looks.tolist()
    reference.step(actions)
    scenes_after = reference._now.indices.tolist()
    expected = reference.episode.looks.tolist(), reference.episode.belief
    at, outcomes = 1, set()
    while True:
        envs = make()
        if Interrupter(at).run(lambda envs=envs: envs.step(actions)):  # type: ignore[misc]
            break
        stands = envs.episode.looks.tolist(), envs.has_ended.tolist()
        if stands[0] == before and not any(stands[1]):
            outcomes.add("before")
            envs.step(actions)  # the same step again leads where it would have led
        else:
            outcomes.add("after")
        assert envs.episode.looks.tolist() == expected[0], at
        assert envs._now.indices.tolist() == scenes_after, at
        np.testing.assert_array_equal(envs.episode.belief, expected[1])
        at += 3
    assert at > 100 and "before" in outcomes
