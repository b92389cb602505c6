"""Training: what it leaves behind can be played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import agents.train
from agents.evaluate import evaluate, make_benchmark
from agents.policies import make_policies, trained_env_kwargs
from agents.train import load_hyperparameters, train

ENV = "CanViT-Emoji-v0"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hyperparameters of a training of seconds."""
    settings = load_hyperparameters(ENV)
    settings |= {"timesteps": 32, "num_envs": 4, "policy": {"channels": 8}}
    settings["ppo"] |= {"n_steps": 4, "batch_size": 16, "n_epochs": 1}
    settings["warm_start"] |= {"glimpses": 16, "batch_size": 8}
    monkeypatch.setattr(agents.train, "load_hyperparameters", lambda env_id: settings)


@pytest.mark.parametrize("action", ["cell", "box"])
def test_a_policy_that_may_stop(
    small: None, mini_checkpoint: str, tmp_path: Path, action: str
) -> None:
    kwargs: dict[str, Any] = {
        "backbone": mini_checkpoint, "action": action, "stop_action": True, "glimpse_cost": 0.25,
        "budget": 2,
    }  # fmt: skip
    directory = train(env_id=ENV, out=tmp_path / "policy", env_kwargs=kwargs)
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
    train(env_id=ENV, out=directory, env_kwargs=kwargs, timesteps=48, resume=True)
    assert json.loads((directory / "policy.json").read_text())["timesteps"] == 48
