"""The warm start: afterwards the policy looks where something is to be gained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from canvit_agents.learning import warm_start as module
from canvit_agents.learning.run import Run
from canvit_agents.learning.sb3_policies import CellPolicy, GaussianPolicy
from canvit_agents.learning.warm_start import warm_start
from canvit_gym.adapters.sb3 import CanViTVecEnv, make_sb3_env

SCALES = (0.25, 0.5)
SETTINGS: dict[str, Any] = {
    "temperature": 0.01,
    "learning_rate": 5e-3,
    "batch_size": 64,
    "updates_per_step": 2,
    "memory_steps": 20,
    "seed": 0,
}
TARGET: dict[str, Any] = {
    "map": "target", "scale_values": (1.0, 0.8), "target_size": 0.25, **SETTINGS,
}  # fmt: skip


def make_model(env_id: str, *, num_envs: int = 16, **kwargs: Any) -> tuple[CanViTVecEnv, PPO]:
    settings = {"action": "cell", "cell_scales": SCALES, **kwargs}
    env = make_sb3_env(env_id, num_envs=num_envs, **settings)
    env.seed(0)
    cells = settings["action"] == "cell"
    model = PPO(
        CellPolicy if cells else GaussianPolicy,
        env,
        n_steps=2,
        batch_size=32,
        policy_kwargs={"channels": 16, **({"cell_scales": SCALES} if cells else {})},
        seed=0,
        device="cpu",
    )
    return env, model


def begin(out: Path, *, seed: int = 0) -> Run:
    """A run, or what was interrupted of it."""
    settings = {"env": "an environment", "seed": seed}
    return Run.begin(out, settings=settings, resume=True, device="cpu", progress=False)


def gain_of_one_look(env: CanViTVecEnv, model: PPO, *, potential: str) -> float:
    """Of the policy's best first looks over those of chance."""
    observation = env.reset()
    actions, _ = model.predict(observation, deterministic=True)
    anywhere = torch.randint(
        env.action_space.n, (env.num_envs,), generator=torch.Generator().manual_seed(0)
    )
    rollout, listed = env.envs.rollout, env.envs.actions
    chosen, random = (
        rollout.look(env.envs.episode, listed.viewpoint(a)).potentials[potential].mean()
        for a in (actions, anywhere)
    )
    return float(chosen - random)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "settings", "potential"),
    [
        ("CanViT-Emoji-v0", TARGET, "prob"),
        ("CanViT-EmojiSeg-v0", {"map": "gain", **SETTINGS}, "mean_iou"),
    ],
)
def test_looks_gain_more_than_by_chance(
    env_id: str, settings: dict[str, Any], potential: str, tmp_path: Path
) -> None:
    env, model = make_model(env_id, num_envs=64)
    warm_start(model, env.envs, run=begin(tmp_path), glimpses=64 * 4 * 16, **settings)
    assert gain_of_one_look(env, model, potential=potential) > 0.02


def test_actions_are_chosen_on_the_device_of_the_logits() -> None:
    """The meta device refuses to mix with the CPU, as a GPU does."""
    logits = torch.zeros(4, 8, device="meta")
    for is_last in (False, True):
        chosen = module._explore(logits, logits, is_last=is_last, rng=np.random.default_rng(0))
        assert chosen.device.type == "meta" and chosen.shape == (4,)
    others = module._others(logits, count=3, rng=np.random.default_rng(0))
    assert others.device.type == "meta" and others.shape == (4, 3)


def test_nothing_is_said_about_stopping(tmp_path: Path) -> None:
    env, model = make_model("CanViT-Emoji-v0", num_envs=4, stop_action=True)
    policy = model.policy
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    warm_start(model, env.envs, run=begin(tmp_path), glimpses=4 * 20, **TARGET)
    assert "mlp_extractor.places.stop.weight" in before
    changed = {name for name, value in policy.state_dict().items() if (value != before[name]).any()}
    assert {"mlp_extractor.places.logits.weight", "features_extractor.maps.embed.weight"} <= changed
    assert not changed & {"mlp_extractor.places.stop.weight", "mlp_extractor.places.stop.bias"}


@pytest.mark.parametrize(
    ("env_id", "kwargs", "changes", "complaint"),
    [
        ("CanViT-Emoji-v0", {"action": "box"}, {}, "action='cell'"),
        ("CanViT-Emoji-v0", {}, {"map": "gain"}, "Classification does not"),
        ("CanViT-Emoji-v0", {}, {"map": "treasure"}, "treasure"),
        ("CanViT-Emoji-v0", {}, {"scale_values": (1.0,)}, "1 scale_values"),
    ],
)
def test_what_can_not_be_learned_is_refused_at_once(
    env_id: str, kwargs: dict[str, Any], changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    env, model = make_model(env_id, num_envs=2, **kwargs)
    with pytest.raises(ValueError, match=complaint):
        warm_start(model, env.envs, run=begin(tmp_path), glimpses=8, **{**TARGET, **changes})


def test_scenes_without_masks_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, model = make_model("CanViT-Emoji-v0", num_envs=2)
    draw = type(env.envs.scenes).__getitem__
    monkeypatch.setattr(
        type(env.envs.scenes),
        "__getitem__",
        lambda self, i: dataclasses.replace(draw(self, i), mask=None, name="photo.jpeg"),
    )
    with pytest.raises(ValueError, match="photo.jpeg has no mask"):
        warm_start(model, env.envs, run=begin(tmp_path), glimpses=8, **TARGET)


def test_what_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_STEPS", 4)
    monkeypatch.setattr(module, "_SAVE_EVERY_STEPS", 10)
    env, model = make_model("CanViT-Emoji-v0", num_envs=4)
    look, looks = type(env.envs.rollout).look, []

    def interrupted(*args: Any) -> Any:
        looks.append(1)
        if len(looks) == 15:
            raise KeyboardInterrupt
        return look(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(env.envs.rollout), "look", interrupted)
        warm_start(model, env.envs, run=begin(tmp_path), glimpses=4 * 24, **TARGET)
    saved = torch.load(tmp_path / "training.pt", weights_only=True)
    assert saved["done"] == 40

    with pytest.raises(ValueError, match="another seed"):
        begin(tmp_path, seed=1)
    env, model = make_model("CanViT-Emoji-v0", num_envs=4)
    seen: list[dict[str, torch.Tensor]] = []
    load = module._Learner.load_state_dict

    def loading(self: module._Learner, state: dict[str, Any]) -> Any:
        seen.append({key: value.clone() for key, value in state.items()})
        return load(self, state)

    def counted(*args: Any) -> Any:
        looks.append(1)
        return look(*args)

    looks.clear()
    monkeypatch.setattr(module._Learner, "load_state_dict", loading)
    monkeypatch.setattr(type(env.envs.rollout), "look", counted)
    warm_start(model, env.envs, run=begin(tmp_path), glimpses=4 * 24, **TARGET)
    assert len(looks) == 16  # whole episodes: what was not saved and the rest
    weights = model.policy.state_dict()
    assert any((value != seen[0][f"policy.{name}"]).any() for name, value in weights.items())
