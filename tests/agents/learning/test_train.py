"""Training: hyperparameters go over those of the YAML, and what it leaves behind can be played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from canvit_agents.judging.evaluate import evaluate, make_benchmark
from canvit_agents.judging.playing import play
from canvit_agents.learning.train import changed, load_hyperparameters, train
from canvit_agents.policies import load_policy, make_policies, trained_env_kwargs
from canvit_gym.training.common import save_snapshot

ENV = "CanViT-Emoji-v0"
SMALL: dict[str, Any] = {  # a training of seconds
    "timesteps": 32,
    "num_envs": 4,
    "policy": {"channels": 8},
    "warm_start": {"glimpses": 16, "batch_size": 8},
    "ppo": {"n_steps": 4, "batch_size": 16, "n_epochs": 1},
}


def test_hyperparameters_are_changed_key_by_key() -> None:
    settings = load_hyperparameters(ENV)
    new = changed(settings, {"ppo": {"gamma": 0.5}, "reward_clip": 1.0})
    assert new["ppo"] == {**settings["ppo"], "gamma": 0.5} and new["reward_clip"] == 1.0
    assert {k: v for k, v in new.items() if k not in ("ppo", "reward_clip")} == {
        k: v for k, v in settings.items() if k not in ("ppo", "reward_clip")
    }
    assert settings == load_hyperparameters(ENV)
    with pytest.raises(ValueError, match="'gains'.*this environment has timesteps, num_envs, env"):
        changed(settings, {"gains": {"glimpses": 8}})


def test_a_short_run_makes_a_policy_that_plays(
    mini_checkpoint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kwargs = {"backbone": mini_checkpoint, "budget": 2}
    directory = train(
        env_id=ENV,
        out=tmp_path / "policy",
        env_kwargs=kwargs,
        hyperparameters=SMALL,
        progress=False,
    )
    assert capfd.readouterr() == ("", "")
    curve = [json.loads(line) for line in (directory / "curve.jsonl").read_text().splitlines()]
    assert [entry["timesteps"] for entry in curve] == [16, 32]
    env = make_benchmark(ENV, env_kwargs={**kwargs, "action": "cell"}).env
    policy = load_policy(directory, env_id=ENV, env=env)
    assert policy.model.n_steps == 4 and policy.model.policy.features_extractor.channels == 8
    seen = play(policy, scenes=env.scenes, num_scenes=2)
    assert seen.viewpoints.shape == (2, 3, 3)


def test_a_run_shorter_than_a_rollout_does_not_unlearn(
    mini_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whole rollouts go beyond what was asked for, where a line that falls goes below zero.
    rates = []
    step = torch.optim.Adam.step

    def recorded(self: torch.optim.Adam, *args: Any) -> Any:
        rates.extend(group["lr"] for group in self.param_groups)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    kwargs = {"backbone": mini_checkpoint, "budget": 2}
    changes = {**SMALL, "warm_start": {"glimpses": 0}}
    train(env_id=ENV, out=tmp_path, env_kwargs=kwargs, timesteps=2, hyperparameters=changes)
    assert rates and min(rates) >= 0


def test_an_interrupted_warm_start_is_not_lost(
    mini_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, out: Path, **kwargs: Any) -> None:
        save_snapshot(out, settings={})
        raise KeyboardInterrupt

    asked = {
        "env_id": ENV, "out": tmp_path, "env_kwargs": {"backbone": mini_checkpoint, "budget": 2},
        "hyperparameters": SMALL,
    }  # fmt: skip
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("canvit_agents.learning.train.warm_start", interrupted)
        train(**asked)
    with pytest.raises(FileExistsError, match="the beginning of one; add --resume"):
        train(**asked)
    continued = []
    monkeypatch.setattr(
        "canvit_agents.learning.train.warm_start", lambda *a, out, **k: continued.append(out)
    )
    train(**asked, resume=True)
    assert continued == [tmp_path]
    assert (tmp_path / "policy.zip").exists() and not (tmp_path / "training.pt").exists()


@pytest.mark.parametrize("action", ["cell", "box"])
def test_a_policy_that_may_stop(mini_checkpoint: str, tmp_path: Path, action: str) -> None:
    kwargs: dict[str, Any] = {
        "backbone": mini_checkpoint, "action": action, "stop_action": True, "glimpse_cost": 0.25,
        "budget": 2,
    }  # fmt: skip
    small = {**SMALL, "policy": {"channels": 8, "sums_crops": True}}
    asked = {"env_id": ENV, "out": tmp_path, "env_kwargs": kwargs, "hyperparameters": small}
    directory = train(**asked)
    card = json.loads((directory / "policy.json").read_text())
    assert kwargs.items() <= card["env_kwargs"].items()
    curve = [json.loads(line) for line in (directory / "curve.jsonl").read_text().splitlines()]
    assert all(1 <= entry["glimpses"] <= 3 for entry in curve)

    found = trained_env_kwargs([str(directory)], env_id=ENV)
    benchmark = make_benchmark(ENV, env_kwargs=found)
    assert benchmark.env.glimpse_cost == 0.25
    policies = make_policies([str(directory)], env_id=ENV, env=benchmark.env)
    summary = evaluate(policies, benchmark=benchmark, num_scenes=4, progress=False)
    (row,) = summary["policies"].values()
    gained = row["potentials"]["log_prob"][-1] - row["potentials"]["log_prob"][0]
    cost = 0.25 * (row["glimpses"][-1] - 1)
    assert row["return_mean"] == pytest.approx(gained - cost)
    train(**asked, timesteps=48, resume=True)
    assert json.loads((directory / "policy.json").read_text())["timesteps"] == 48
    # What is saved says nothing of the machine, and a resumed run still logs where it did.
    assert str(tmp_path).encode() not in (directory / "policy.zip").read_bytes()
    assert len(list((directory / "tensorboard").iterdir())) == 1
