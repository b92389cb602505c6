"""Train a glimpse policy with Stable-Baselines3 PPO on the frozen backbone.

A run directory holds policy.zip and policy.json (see `agents.policies.learned`), the learning
curve in curve.jsonl and TensorBoard logs. The policy is saved as training goes; `resume=True`
continues from the last save with the same schedules.
"""

from __future__ import annotations

import json
from collections import deque
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from tqdm import tqdm

from agents.gains import learn_gains
from agents.imitation import imitate
from agents.networks import CellPolicy, GaussianPolicy
from canvit_gym.envs.actions import ListedActions
from canvit_gym.sb3 import CanViTVecEnv, make_sb3_env

_SAVE_EVERY_UPDATES = 20


def load_hyperparameters(env_id: str) -> dict[str, Any]:
    """The YAML of an environment id; raises ValueError where there is none."""
    path = files("agents") / "hyperparameters" / f"{env_id}.yaml"
    if not path.is_file():
        known = sorted(
            p.name.removesuffix(".yaml") for p in (files("agents") / "hyperparameters").iterdir()
        )
        raise ValueError(
            f"There are no hyperparameters for {env_id!r}; known: {', '.join(known)}, or add "
            f"agents/hyperparameters/{env_id}.yaml."
        )
    return yaml.safe_load(path.read_text())


class ClipReward(VecEnvWrapper):
    """Limits what the learner sees of a step's reward; episode statistics stay unclipped."""

    def __init__(self, venv: CanViTVecEnv, *, limit: float) -> None:
        super().__init__(venv)
        self.limit = limit

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards.clip(-self.limit, self.limit), dones, infos


class SaveAndReport(BaseCallback):
    """Progress bar, learning curve, and the policy on disk as training goes."""

    def __init__(self, *, out: Path, record: dict[str, Any], total: int, headline: str) -> None:
        super().__init__()
        self.out, self.record, self.total, self.headline = out, record, total, headline
        self.recent: deque[tuple[float, float]] = deque(maxlen=2000)
        self.updates = 0

    def _on_training_start(self) -> None:
        self.bar = tqdm(total=self.total, initial=self.num_timesteps, unit="glimpse")

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                reached = info["final_info"]["potential_after"][self.headline]
                self.recent.append((info["episode"]["r"], float(reached)))
        return True

    def _on_rollout_end(self) -> None:
        self.updates += 1
        self.bar.update(self.num_timesteps - self.bar.n)
        if not self.recent:
            return
        reward, reached = np.mean(self.recent, axis=0).tolist()
        self.bar.set_postfix({self.headline: f"{reached:.3f}", "reward": f"{reward:.3f}"})
        entry = {"timesteps": self.num_timesteps, self.headline: reached, "return": reward}
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
    model.save(partial, exclude=["_last_obs"])  # megabytes; a resumed run starts new episodes
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
) -> Path:
    """Train and return the policy directory, `out`.

    env_kwargs go over those of the YAML; `timesteps` counts glimpses over all environments.
    Raises FileExistsError where `out` holds a policy and `resume` is False, and ValueError where
    a run to resume was made with another environment, backbone or seed.
    """
    settings = load_hyperparameters(env_id)
    kwargs = {**settings["env"], **(env_kwargs or {})}
    total = timesteps or settings["timesteps"]
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "policy.json"
    if saved.exists() and not resume:
        raise FileExistsError(
            f"{out} holds a policy already; add --resume, or choose another --out."
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
    if resume and (out / "policy.zip").exists():
        learner_env = ClipReward(env, limit=settings["reward_clip"])
        model = PPO.load(out / "policy.zip", env=learner_env, device=device)
    else:
        model = new_learner(
            env, settings, seed=seed, device=device, tensorboard_log=str(out / "tensorboard")
        )
        if isinstance(model.policy, CellPolicy):
            for name, warm_start in (("imitation", imitate), ("gains", learn_gains)):
                if settings.get(name, {}).get("glimpses"):
                    env.seed(seed)
                    warm_start(model, env, seed=seed, **settings[name])
                    save_policy(model, out=out, record=record)
    # A resumed run draws scenes that its first part did not.
    env.seed(seed * 1_000_003 + model.num_timesteps)
    remaining = total - model.num_timesteps
    if remaining > 0:
        model.learn(
            remaining,
            callback=SaveAndReport(
                out=out, record=record, total=total, headline=env.envs.rollout.task.headline
            ),
            reset_num_timesteps=model.num_timesteps == 0,
        )
        save_policy(model, out=out, record=record)
    env.close()
    return out


def new_learner(env: CanViTVecEnv, settings: dict[str, Any], *, seed: int, **changes: Any) -> PPO:
    """PPO with new weights as `load_hyperparameters` has it; `changes` are PPO's keyword
    arguments and go over those of the settings."""
    ppo = {**settings["ppo"], **changes}
    policy_kwargs = dict(settings["policy"])
    actions = env.envs.actions
    if isinstance(actions, ListedActions):
        policy_kwargs["cell_scales"] = actions.scales
    return PPO(
        CellPolicy if isinstance(actions, ListedActions) else GaussianPolicy,
        ClipReward(env, limit=settings["reward_clip"]),
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
        return self.peak * progress_remaining
