"""Trained policies: finding them by name, and playing them on an environment that they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from canvit_agents.policies.base import Policy
from canvit_agents.policies.networks import NetworkConfig, PolicyNetwork
from canvit_agents.policies.saved import RECORD, PolicyRecord, load_network, read_record
from canvit_gym import CanViTVectorEnv, Choice, Episode, Rollout, Viewpoint
from canvit_gym.envs.actions import Actions
from canvit_gym.envs.observations import Observations
from canvit_gym.model.identity import BackboneIdentity

PRETRAINED = "pretrained"
"""The name of the policy that this package brings for an environment."""

HUB = "hub:"
"""How the name of a policy on the Hugging Face hub begins: hub:owner/name or hub:owner/name@rev."""

_SPACES = ("action", "cell_scales", "stop_action", "observation")


@dataclass(frozen=True, kw_only=True)
class LearnedPolicy(Policy):
    """The most probable action of a trained network; nothing is drawn by chance.

    The network stays on the rollout's device, and so do the observations that it reads.
    """

    network: PolicyNetwork = field(repr=False)
    observations: Observations = field(repr=False)
    actions: Actions = field(repr=False)
    sha256: str

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        return self.choose(episode, generators).viewpoint

    @torch.no_grad()
    def choose(self, episode: Episode, generators: Sequence[torch.Generator]) -> Choice:
        actions = self.network.act(self.observations.observe(episode))
        return self.actions.choice(actions).to(episode.device)

    @property
    def settings(self) -> dict[str, Any]:
        return {"kind": type(self).__name__, "sha256": self.sha256}


def find_policy(name: str, *, env_id: str) -> Path | None:
    """The directory that a name stands for, or None: a path, the policy that this package brings
    for an environment, or one on the hub, which is downloaded."""
    if name == PRETRAINED:
        directory = Path(str(resources.files("canvit_agents") / "pretrained" / env_id))
        if not directory.is_dir():
            raise FileNotFoundError(
                f"This package brings no trained policy for {env_id}; train one with "
                f"`canvit-gym train --env {env_id} --out DIR` and give that DIR."
            )
        return directory
    if name.startswith(HUB):
        from canvit_agents.policies.hub import download_policy

        return download_policy(name.removeprefix(HUB))
    path = Path(name).expanduser()
    return path if path.is_dir() else None


def load_policy(directory: str | Path, *, env_id: str, env: CanViTVectorEnv) -> LearnedPolicy:
    """The trained policy in `directory`, to be played on `env`'s rollout and device.

    Its own action and observation spaces are used, whatever `env`'s are. Runs no code from the
    directory. Raises ValueError where its files are damaged, and where it was trained in another
    environment, on another backbone or with another budget.
    """
    directory = Path(directory)
    record = read_record(directory)
    _require_same(directory, record, env_id=env_id, env=env)
    chosen = {**gym.spec(env_id).kwargs, **record.env_kwargs}
    # The same environment with the spaces that the policy was trained with; it costs nothing
    # before its first reset.
    own = CanViTVectorEnv(
        num_envs=1,
        scenes=env.scenes,
        rollout=env.rollout,
        backbone=env.backbone,
        **{key: chosen[key] for key in _SPACES if key in chosen},
    )
    network, sha256 = load_network(directory)
    _require_fitting(directory, network.config, own)
    return LearnedPolicy(
        rollout=env.rollout,
        network=network.to(env.rollout.device),
        observations=own.observations,
        actions=own.actions,
        sha256=sha256,
    )


def _require_fitting(directory: Path, config: NetworkConfig, env: CanViTVectorEnv) -> None:
    """Raise ValueError unless the network reads this environment's observations and names its
    actions."""
    try:
        wanted = NetworkConfig.for_spaces(
            env.single_observation_space,  # type: ignore[arg-type]  # a Dict
            env.single_action_space,
            channels=config.channels,
            cell_scales=config.cell_scales,
            sums_crops=config.sums_crops,
        )
    except ValueError as error:
        raise ValueError(f"The policy in {directory} does not fit: {error}") from error
    if wanted != config:
        differing = [
            f"{key} {value!r} for {getattr(wanted, key)!r}"
            for key, value in vars(config).items()
            if value != getattr(wanted, key)
        ]
        raise ValueError(
            f"The policy in {directory} was trained with other spaces than this environment has "
            f"({', '.join(differing)}); evaluate it with the settings in its {RECORD}."
        )


def _require_same(
    directory: Path, record: PolicyRecord, *, env_id: str, env: CanViTVectorEnv
) -> None:
    if record.env != env_id:
        raise ValueError(
            f"The policy in {directory} was trained in {record.env}, not in {env_id}; evaluate it "
            f"with --env {record.env}, or train one in {env_id}."
        )
    if record.backbone.sha256 != env.backbone.sha256:
        raise ValueError(
            f"The policy in {directory} was trained on the backbone {_name(record.backbone)}, but "
            f"this environment has {_name(env.backbone)}; a policy only fits the backbone it was "
            "trained on, so take that one, or train a policy on this one."
        )
    for key in ("budget", "initial_glimpse"):
        trained, here = record.env_kwargs.get(key, getattr(Rollout, key)), getattr(env.rollout, key)
        if trained != here:
            raise ValueError(
                f"The policy in {directory} was trained with {key}={trained!r}, but this "
                f"environment has {key}={here!r}; evaluate it with {key}={trained!r}."
            )


def _name(backbone: BackboneIdentity) -> str:
    return f"{backbone.name!r} (sha256 {backbone.sha256[:12]})"
