"""Policies that were trained: `policy.zip` (Stable-Baselines3 PPO) and `policy.json` beside it.

`policy.zip` contains a pickle, which can run any code when it is loaded. Only load policies that
you trust.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch

from canvit_agents.policies.base import Policy
from canvit_gym.envs.actions import Actions
from canvit_gym.envs.observations import Observations
from canvit_gym.envs.rollout import Choice, Episode, Rollout
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import Viewpoint
from canvit_gym.model.identity import BackboneIdentity

if TYPE_CHECKING:  # the baselines work without Stable-Baselines3
    from stable_baselines3 import PPO

PRETRAINED = "pretrained"
"""The name of the policy that this package brings for an environment."""

_WEIGHTS, _CARD = "policy.zip", "policy.json"
_SPACES = ("action", "cell_scales", "stop_action", "observation")


@dataclass(frozen=True, kw_only=True)
class PolicyCard:
    """What `policy.json` says: which environment, on which backbone, and how it was trained."""

    env: str
    env_kwargs: dict[str, Any]
    backbone: BackboneIdentity
    algorithm: str
    seed: int
    timesteps: int


@dataclass(frozen=True, kw_only=True)
class LearnedPolicy(Policy):
    """The most probable action of a trained policy; nothing is drawn."""

    model: PPO = field(repr=False)
    observations: Observations = field(repr=False)
    actions: Actions = field(repr=False)
    sha256: str

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        return self.choose(episode, generators).viewpoint

    def choose(self, episode: Episode, generators: Sequence[torch.Generator]) -> Choice:
        observed = self.observations.observe(episode)
        actions, _ = self.model.predict(
            {key: value.cpu().numpy() for key, value in observed.items()}, deterministic=True
        )
        return self.actions.choice(actions).to(episode.device)

    @property
    def settings(self) -> dict[str, Any]:
        return {"kind": type(self).__name__, "sha256": self.sha256}


def find_policy(name: str, *, env_id: str) -> Path | None:
    """The directory that a name stands for, or None: a path, or the policy that this package
    brings for an environment."""
    if name == PRETRAINED:
        directory = Path(str(resources.files("canvit_agents") / "pretrained" / env_id))
        if not directory.is_dir():
            raise FileNotFoundError(
                f"This package brings no trained policy for {env_id}; train one with "
                f"`canvit-gym train --env {env_id} --out DIR` and give that DIR."
            )
        return directory
    path = Path(name).expanduser()
    return path if path.is_dir() else None


def read_card(directory: Path) -> PolicyCard:
    """The card of a trained policy; raises FileNotFoundError or ValueError where it is no such."""
    path = directory / _CARD
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} holds no {_CARD}; give a directory that `canvit-gym train` wrote."
        )
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        return PolicyCard(
            env=card["env"],
            env_kwargs=dict(card["env_kwargs"]),
            backbone=BackboneIdentity(**card["backbone"]),
            algorithm=card["algorithm"],
            seed=card["seed"],
            timesteps=card["timesteps"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is no policy card ({type(error).__name__}: {error}); give a directory that "
            "`canvit-gym train` wrote."
        ) from error


def load_policy(directory: str | Path, *, env_id: str, env: CanViTVectorEnv) -> LearnedPolicy:
    """The trained policy in `directory`, to be played on `env`'s rollout.

    Its own action and observation spaces are used, whatever `env`'s are. Raises ValueError where
    it was trained in another environment, on another backbone or with another budget.

    The file is a pickle, so only load policies that you trust.
    """
    directory = Path(directory)
    card = read_card(directory)
    _require_same(directory, card, env_id=env_id, env=env)
    defaults = gym.spec(env_id).kwargs
    chosen = {**defaults, **card.env_kwargs}
    # The same environment with the spaces that the policy was trained with; it costs nothing
    # before its first reset.
    own = CanViTVectorEnv(
        num_envs=1,
        scenes=env.scenes,
        rollout=env.rollout,
        backbone=env.backbone,
        **{key: chosen[key] for key in _SPACES if key in chosen},
    )
    model = _load_model(directory / _WEIGHTS)
    if (model.observation_space, model.action_space) != (
        own.single_observation_space,
        own.single_action_space,
    ):
        raise ValueError(
            f"The policy in {directory} was trained with {model.observation_space} and "
            f"{model.action_space}, but this environment has {own.single_observation_space} and "
            f"{own.single_action_space}; evaluate it with the settings in its {_CARD}."
        )
    return LearnedPolicy(
        rollout=env.rollout,
        model=model,
        observations=own.observations,
        actions=own.actions,
        sha256=hashlib.sha256((directory / _WEIGHTS).read_bytes()).hexdigest(),
    )


def _require_same(directory: Path, card: PolicyCard, *, env_id: str, env: CanViTVectorEnv) -> None:
    if card.env != env_id:
        raise ValueError(
            f"The policy in {directory} was trained in {card.env}, not in {env_id}; evaluate it "
            f"with --env {card.env}, or train one in {env_id}."
        )
    if card.backbone.sha256 != env.backbone.sha256:
        raise ValueError(
            f"The policy in {directory} was trained on the backbone {_name(card.backbone)}, but "
            f"this environment has {_name(env.backbone)}; a policy only fits the backbone it was "
            "trained on, so take that one, or train a policy on this one."
        )
    for key in ("budget", "initial_glimpse"):
        trained, here = card.env_kwargs.get(key, getattr(Rollout, key)), getattr(env.rollout, key)
        if trained != here:
            raise ValueError(
                f"The policy in {directory} was trained with {key}={trained!r}, but this "
                f"environment has {key}={here!r}; evaluate it with {key}={trained!r}."
            )


def _name(backbone: BackboneIdentity) -> str:
    return f"{backbone.name!r} (sha256 {backbone.sha256[:12]})"


def _load_model(path: Path) -> PPO:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; give a directory that `canvit-gym train` wrote."
        )
    try:
        from stable_baselines3 import PPO
    except ImportError as error:
        raise ImportError(
            "Trained policies need stable-baselines3; install it with "
            "`pip install canvit-gym[agents]`."
        ) from error
    return PPO.load(path, device="cpu")
