"""PPO of Stable-Baselines3 on the frozen backbone, after a warm start where the settings ask for
one."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from canvit_agents.learning.rewards import ClipReward, DatasetIoUReward
from canvit_agents.learning.run import Run
from canvit_agents.learning.sb3_policies import CanvasPolicy, CellPolicy, GaussianPolicy
from canvit_agents.learning.warm_start import warm_start
from canvit_agents.policies.networks import PolicyNetwork
from canvit_gym.adapters.sb3 import CanViTVecEnv
from canvit_gym.envs.actions import ListedActions

_SAVE_EVERY_UPDATES = 20


class PPOLearner:
    """PPO, and before it the warm start of cell policies (see `learning.warm_start`)."""

    def __init__(
        self, env: CanViTVecEnv, settings: dict[str, Any], *, seed: int, device: str, out: Path
    ) -> None:
        self.env, self.settings, self.seed = env, settings, seed
        self.model = new_ppo(
            env, settings, seed=seed, device=device, tensorboard_log=str(out / "tensorboard")
        )
        self.is_warm = not (
            isinstance(self.model.policy, CellPolicy)
            and settings.get("warm_start", {}).get("glimpses")
        )

    @property
    def timesteps(self) -> int:
        return int(self.model.num_timesteps)

    def network(self) -> PolicyNetwork:
        policy = self.model.policy
        assert isinstance(policy, CanvasPolicy)
        return policy.network()

    def state_dict(self) -> dict[str, Any]:
        return {
            "parameters": self.model.get_parameters(),
            "timesteps": self.timesteps,
            "updates": self.model._n_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            self.model.set_parameters(state["parameters"])
            self.model.num_timesteps = int(state["timesteps"])
            self.model._n_updates = int(state["updates"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"The snapshot is not of this learner ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); choose another --out."
            ) from error
        self.is_warm = True

    def learn(self, total: int, run: Run) -> None:
        if not self.is_warm:
            warm_start(self.model, self.env.envs, run=run, seed=self.seed,
                       **self.settings["warm_start"])  # fmt: skip
            self.is_warm = True
            run.save(self)
        # A resumed run draws scenes that its first part did not.
        self.env.seed(self.seed * 1_000_003 + self.timesteps)
        if (remaining := total - self.timesteps) > 0:
            self.model.learn(
                remaining,
                callback=_Report(self, run, total=total),
                reset_num_timesteps=self.timesteps == 0,
            )


class _Report(BaseCallback):
    """Shows a progress bar, and tells the run after each update."""

    def __init__(self, learner: PPOLearner, run: Run, *, total: int) -> None:
        super().__init__()
        self.learner, self.run, self.total = learner, run, total
        self.headline = learner.env.envs.rollout.task.headline
        self.recent: deque[tuple[float, float, float]] = deque(maxlen=2000)
        self.updates = 0

    def _on_training_start(self) -> None:
        self.bar = tqdm(
            total=self.total,
            initial=self.num_timesteps,
            unit="glimpse",
            desc="PPO",
            disable=not self.run.progress,
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
        figures = {
            "timesteps": self.num_timesteps,
            self.headline: reached,
            "return": reward,
            "glimpses": glimpses,
        }
        self.run.report(self.learner, figures, save=self.updates % _SAVE_EVERY_UPDATES == 0)

    def _on_training_end(self) -> None:
        self.bar.update(self.num_timesteps - self.bar.n)
        self.bar.close()


def learner_env(env: CanViTVecEnv, settings: dict[str, Any]) -> ClipReward:
    """The environment with the rewards that the learner sees."""
    paying = DatasetIoUReward(env) if settings.get("dataset_iou_reward") else env
    return ClipReward(paying, limit=settings["reward_clip"])


def new_ppo(env: CanViTVecEnv, settings: dict[str, Any], *, seed: int, **changes: Any) -> PPO:
    """PPO with new weights as the hyperparameters have it; `changes` are PPO's keyword arguments
    and go over those of the settings."""
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
    """A learning rate that falls linearly to zero."""

    def __init__(self, peak: float) -> None:
        self.peak = peak

    def __call__(self, progress_remaining: float) -> float:
        # Rollouts are whole, so the last one goes beyond what was asked for.
        return self.peak * max(0.0, progress_remaining)
