"""The warm start: what is imitated, and that imitating it finds the target."""

import dataclasses

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from agents.imitation import coverage_targets, imitate
from agents.networks import CellPolicy
from canvit_gym.envs.actions import cell_actions
from canvit_gym.sb3 import make_sb3_env
from canvit_gym.scenes.base import Box, Scene

WORTH = torch.tensor([1.0, 0.5]).repeat_interleave(16)  # of 16 cells at scales 0.25 and 0.5


def scene(*, top: int, left: int, size: int = 8) -> Scene:
    return Scene(
        name="made up",
        picture=np.zeros((64, 64, 3), np.uint8),
        label=0,
        mask=None,
        target=Box(top=top, left=left, bottom=top + size, right=left + size),
    )


def test_crops_count_by_how_much_of_the_target_they_show_and_what_their_scale_is_worth() -> None:
    actions = cell_actions(grid_size=4, scales=(0.25, 0.5))
    wanted = coverage_targets(actions.viewpoints, [scene(top=36, left=4)], worth=WORTH)[0]
    assert wanted.sum() == pytest.approx(1)
    fine, coarse = wanted.reshape(2, 4, 4) / wanted.max()
    # The box covers rows 36..44 and columns 4..12 of 64: at scale 0.25 one 16 px cell holds it.
    assert fine.nonzero().tolist() == [[2, 0]] and fine[2, 0] == 1
    # At scale 0.5 crops are 32 px. From rows 24 and 32 and column 0 they hold it, at half the
    # worth; from row 8 or column 8 they show half of it, which counts half; both, a quarter: none.
    expected = torch.zeros(4, 4)
    expected[2:, 0] = 0.5
    expected[1, 0] = expected[2, 1] = expected[3, 1] = 0.25
    torch.testing.assert_close(coarse, expected)


def test_a_target_that_fits_no_crop_makes_every_place_as_good() -> None:
    actions = cell_actions(grid_size=4, scales=(0.25,))
    wanted = coverage_targets(
        actions.viewpoints, [scene(top=0, left=0, size=60)], worth=torch.ones(16)
    )
    assert torch.allclose(wanted, torch.full((1, 16), 1 / 16))


def test_scenes_without_a_target_are_refused_by_name() -> None:
    actions = cell_actions(grid_size=4, scales=(0.25,))
    blind = dataclasses.replace(scene(top=0, left=0), target=None, name="photo.jpeg")
    with pytest.raises(ValueError, match="photo.jpeg does not say where"):
        coverage_targets(actions.viewpoints, [blind], worth=torch.ones(16))


def test_imitation_says_nothing_about_stopping() -> None:
    """The loss has no gradient for when to stop, and one for where to look."""
    env = make_sb3_env(
        "CanViT-Emoji-v0", num_envs=4, action="cell", cell_scales=(0.25, 0.5), stop_action=True
    )
    model = PPO(
        CellPolicy,
        env,
        n_steps=2,
        batch_size=8,
        policy_kwargs={"channels": 8, "cell_scales": (0.25, 0.5)},
        seed=0,
        device="cpu",
    )
    env.seed(0)
    policy = model.policy
    assert isinstance(policy, CellPolicy) and policy.stop_action
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    imitate(
        model,
        env,
        glimpses=4 * 6,
        scale_values=(1.0, 0.8),
        last_scale_values=(1.0, 0.8),
        learning_rate=1e-3,
        batch_size=8,
        updates_per_step=1,
        seed=0,
    )
    changed = {name for name, value in policy.state_dict().items() if (value != before[name]).any()}
    assert {"mlp_extractor.logits.weight", "features_extractor.embed.weight"} <= changed
    assert not changed & {"mlp_extractor.stop.weight", "mlp_extractor.stop.bias"}
