"""Train a glimpse policy with Stable-Baselines3 PPO on the frozen backbone.

A run directory holds policy.zip and policy.json (see `policies.learned`), the learning
curve in curve.jsonl and TensorBoard logs. The policy is saved as training goes; `resume=True`
continues from the last save with the same schedules.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from canvit_agents.learning.networks import CellPolicy, GaussianPolicy
from canvit_agents.learning.rewards import ClipReward, DatasetIoUReward
from canvit_agents.learning.warm_start import warm_start
from canvit_gym.adapters.sb3 import CanViTVecEnv, make_sb3_env
from canvit_gym.envs.actions import ListedActions
from canvit_gym.training.common import has_snapshot, remove_snapshot

_SAVE_EVERY_UPDATES = 20


def load_hyperparameters(env_id: str) -> dict[str, Any]:
    """The YAML of an environment id; raises ValueError where there is none."""
    path = files("canvit_agents") / "hyperparameters" / f"{env_id}.yaml"
    if not path.is_file():
        known = sorted(
            p.name.removesuffix(".yaml")
            for p in (files("canvit_agents") / "hyperparameters").iterdir()
        )
        raise ValueError(
            f"There are no hyperparameters for {env_id!r}; known: {', '.join(known)}, or add "
            f"agents/hyperparameters/{env_id}.yaml."
        )
    return yaml.safe_load(path.read_text())


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters with some of them replaced, those of a section key by key.

    Raises ValueError for names that `settings` do not have.
    """
    if unknown := sorted(set(changes) - set(settings)):
        raise ValueError(
            f"Unknown hyperparameters {', '.join(map(repr, unknown))}; this environment has "
            f"{', '.join(settings)}."
        )
    return {
        key: {**value, **changes.get(key, {})}
        if isinstance(value, dict)
        else changes.get(key, value)
        for key, value in settings.items()
    }


class SaveAndReport(BaseCallback):
    """Progress bar, learning curve, and the policy on disk as training goes."""

    def __init__(
        self, *, out: Path, record: dict[str, Any], total: int, headline: str, progress: bool
    ) -> None:
        super().__init__()
        self.out, self.record, self.total, self.headline = out, record, total, headline
        self.progress = progress
        self.recent: deque[tuple[float, float, float]] = deque(maxlen=2000)
        self.updates = 0

    def _on_training_start(self) -> None:
        self.bar = tqdm(
            total=self.total,
            initial=self.num_timesteps,
            unit="glimpse",
            disable=not self.progress,
        )

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                reached = info["final_info"]["potential_after"][self.headline]
                episode = info["episode"]
                self.recent.append((episode["r"], float(reached), float(episode["glimpses"])))
        return True

    def _on_rollout_end(self) -> None:
        self.updates += 1
        self.bar.update(self.num_timesteps - self.bar.n)
        if not self.recent:
            return
        reward, reached, glimpses = np.mean(self.recent, axis=0).tolist()
        self.bar.set_postfix({self.headline: f"{reached:.3f}", "reward": f"{reward:.3f}"})
        entry = {
            "timesteps": self.num_timesteps,
            self.headline: reached,
            "return": reward,
            "glimpses": glimpses,
        }
        with (self.out / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(entry) + "\n")
        if self.updates % _SAVE_EVERY_UPDATES == 0:
            save_policy(self.model, out=self.out, record=self.record)

    def _on_training_end(self) -> None:
        self.bar.update(self.num_timesteps - self.bar.n)
        self.bar.close()


def save_policy(model: Any, *, out: Path, record: dict[str, Any]) -> None:
    """Write policy.zip and policy.json, each whole or not at all."""
    partial = out / "policy.partial.zip"
    # Megabytes, and a resumed run starts new episodes; a place on the machine that trained it.
    model.save(partial, exclude=["_last_obs", "tensorboard_log"])
    partial.replace(out / "policy.zip")
    partial_record = out / "policy.partial.json"
    partial_record.write_text(
        json.dumps({**record, "timesteps": model.num_timesteps}, indent=2) + "\n"
    )
    partial_record.replace(out / "policy.json")


def train(
    *,
    env_id: str,
    out: Path,
    env_kwargs: dict[str, Any] | None = None,
    timesteps: int | None = None,
    seed: int = 0,
    num_envs: int | None = None,
    resume: bool = False,
    hyperparameters: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Train and return the policy directory, `out`.

    env_kwargs and `hyperparameters` go over those of the YAML, its sections key by key, so
    {"warm_start": {"glimpses": 3000}} shortens the warm start and leaves all else. `timesteps`
    counts glimpses of PPO over all environments.
    Raises FileExistsError where `out` holds a policy or the beginning of one and `resume` is False,
    ValueError where a run to resume was made with another environment, backbone or seed, and for
    hyperparameters that the YAML does not have, and SystemExit where its warm start was interrupted
    and had other settings.
    """
    settings = changed(load_hyperparameters(env_id), hyperparameters or {})
    kwargs = {**settings["env"], **(env_kwargs or {})}
    total = timesteps or settings["timesteps"]
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "policy.json"
    if (saved.exists() or has_snapshot(out)) and not resume:
        raise FileExistsError(
            f"{out} holds a policy already, or the beginning of one; add --resume, or choose "
            "another --out."
        )

    env = make_sb3_env(env_id, num_envs=num_envs or settings["num_envs"], split="train", **kwargs)
    runtime = ("scenes", "device", "cache_bytes", "draw_ahead")  # how it ran, not what was learned
    record = {
        "env": env_id,
        "env_kwargs": {k: v for k, v in kwargs.items() if k not in runtime},
        "backbone": {"name": env.envs.backbone.name, "sha256": env.envs.backbone.sha256},
        "algorithm": "ppo",
        "seed": seed,
    }
    if resume and saved.exists():
        before = json.loads(saved.read_text())
        if different := [key for key in record if before[key] != record[key]]:
            raise ValueError(
                f"{out} was trained with another {' and '.join(different)}; repeat its settings "
                "to resume it, or choose another --out."
            )
    device = kwargs.get("device", "cpu")
    logs = str(out / "tensorboard")
    if resume and (out / "policy.zip").exists():
        model = PPO.load(
            out / "policy.zip",
            env=learner_env(env, settings),
            device=device,
            tensorboard_log=logs,
        )
    else:
        model = new_learner(env, settings, seed=seed, device=device, tensorboard_log=logs)
        if isinstance(model.policy, CellPolicy) and settings.get("warm_start", {}).get("glimpses"):
            warm_start(
                model,
                env.envs,
                out=out,
                record=record,
                seed=seed,
                progress=progress,
                **settings["warm_start"],
            )
            save_policy(model, out=out, record=record)
            remove_snapshot(out)
    # A resumed run draws scenes that its first part did not.
    env.seed(seed * 1_000_003 + model.num_timesteps)
    remaining = total - model.num_timesteps
    if remaining > 0:
        model.learn(
            remaining,
            callback=SaveAndReport(
                out=out,
                record=record,
                total=total,
                headline=env.envs.rollout.task.headline,
                progress=progress,
            ),
            reset_num_timesteps=model.num_timesteps == 0,
        )
        save_policy(model, out=out, record=record)
    env.close()
    return out


def learner_env(env: CanViTVecEnv, settings: dict[str, Any]) -> ClipReward:
    """The environment with the rewards that the learner sees."""
    paying = DatasetIoUReward(env) if settings.get("dataset_iou_reward") else env
    return ClipReward(paying, limit=settings["reward_clip"])


def new_learner(env: CanViTVecEnv, settings: dict[str, Any], *, seed: int, **changes: Any) -> PPO:
    """PPO with new weights as `load_hyperparameters` has it; `changes` are PPO's keyword
    arguments and go over those of the settings."""
    ppo = {**settings["ppo"], **changes}
    policy_kwargs = dict(settings["policy"])
    actions = env.envs.actions
    if isinstance(actions, ListedActions):
        policy_kwargs["cell_scales"] = actions.scales
    else:
        policy_kwargs.pop("sums_crops", None)  # a Gaussian has no logits of crops
    return PPO(
        CellPolicy if isinstance(actions, ListedActions) else GaussianPolicy,
        learner_env(env, settings),
        learning_rate=LinearDecay(ppo.pop("learning_rate")),
        policy_kwargs=policy_kwargs,
        seed=seed,
        **ppo,
    )


class LinearDecay:
    """Learning rate that falls linearly to zero; a class, because it is saved with the policy."""

    def __init__(self, peak: float) -> None:
        self.peak = peak

    def __call__(self, progress_remaining: float) -> float:
        # Rollouts are whole, so the last one goes beyond what was asked for.
        return self.peak * max(0.0, progress_remaining)
