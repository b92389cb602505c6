"""Long work is announced, short work is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from canvit_agents.judging import durations
from canvit_agents.judging.durations import say_duration, seconds_per_glimpse
from canvit_gym import Rollout
from canvit_gym.scenes.emoji import EmojiScenes

SCENE = EmojiScenes(split="train")[0]


def test_a_glimpse_takes_time(make_rollout: Callable[..., Rollout]) -> None:
    assert seconds_per_glimpse(make_rollout(initial_glimpse=None), SCENE) > 0


@pytest.mark.parametrize(
    ("glimpses", "said"),
    [(10, ""), (600, "Playing: at most 5 minutes here.\n"), (14_400, "Playing: at most 2.0 hours")],
)
def test_only_long_work_is_announced(
    glimpses: int,
    said: str,
    make_rollout: Callable[..., Rollout],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(durations, "seconds_per_glimpse", lambda *_: 0.5)
    say_duration("Playing", rollout=make_rollout(), scene=SCENE, glimpses=glimpses)
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(said) and bool(printed.err) == bool(said)
