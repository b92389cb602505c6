"""Pictures of episodes on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from canvit_agents.pages.filmstrips import draw_filmstrips
from canvit_agents.policies import POLICIES
from canvit_gym.envs.vector_env import CanViTVectorEnv


def test_policies_of_one_last_name_have_pictures_of_their_own(
    make_vector: Callable[..., CanViTVectorEnv], tmp_path: Path
) -> None:
    env = make_vector(1, budget=1)
    names = ("runs/a/ppo", "runs/b/ppo", "runs/b_ppo", "runs/b/PPO", "coarse_to_fine")
    policies = {name: POLICIES["coarse_to_fine"](env.rollout) for name in names}
    paths = draw_filmstrips(policies, scenes=env.scenes, indices=[0, 3], directory=tmp_path)
    assert len({path.name.casefold() for path in paths}) == 10
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert {"000000-coarse_to_fine.png", "000003-b_ppo.png"} <= {path.name for path in paths}
    for path in paths:
        with Image.open(path) as picture:
            picture.verify()


def test_a_place_that_can_not_be_written_is_named(
    make_vector: Callable[..., CanViTVectorEnv], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file can not be written: "):
        draw_filmstrips({}, scenes=make_vector(1).scenes, indices=[0], directory=tmp_path / "file")
