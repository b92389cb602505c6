"""PPO's benchmark: as many glimpses before each update whatever the number of environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("stable_baselines3")

from canvit_agents.learning import throughput
from canvit_agents.learning.throughput import (
    PARTS,
    backbone_flops,
    buffer_bytes,
    canvit_b,
    format_table,
)
from canvit_agents.learning.train import load_hyperparameters
from canvit_gym.envs.observations import Observations
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.flops import glimpse_flops


@pytest.fixture
def few_glimpses(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_hyperparameters("CanViT-Emoji-v0")
    settings["num_envs"] = 4
    settings["ppo"] |= {"n_steps": 4, "batch_size": 8, "n_epochs": 2}
    monkeypatch.setattr(throughput, "load_hyperparameters", lambda env_id: settings)


def test_command(few_glimpses: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "learning.json"
    throughput.main(["--num-envs", "2", "8", "--updates", "2", "--out", str(out)])
    figures: dict[str, Any] = json.loads(out.read_text())
    assert figures["cpu"] and figures["threads"] >= 1
    assert (figures["glimpses"], figures["n_epochs"], figures["batch_size"]) == (16, 2, 8)
    assert [(r["num_envs"], r["n_steps"]) for r in figures["results"]] == [(2, 8), (8, 2)]
    for record in figures["results"]:
        assert record["seconds"].keys() == PARTS.keys()
        assert all(seconds > 0 for seconds in record["seconds"].values())
        total = sum(record["seconds"].values())
        assert record["glimpses_per_second"] == pytest.approx(16 / total)
        work = record["mflop_per_glimpse"]
        assert work == figures["results"][0]["mflop_per_glimpse"]
        assert 50 < work["backbone"] < 100 and work["update"] > 10
    table = format_table(figures)
    assert table in capsys.readouterr().out
    assert "16 glimpses an update, 2 epochs in batches of 8" in table


def test_glimpses_must_be_shared_evenly(few_glimpses: None) -> None:
    with pytest.raises(ValueError, match="3 environments can not share the 16 glimpses"):
        throughput.measure("CanViT-Emoji-v0", num_envs=3, updates=1)


def test_a_buffer_is_its_observations_and_a_few_numbers() -> None:
    space = spaces.Dict({"canvas": spaces.Box(-1, 1, (5, 4, 4), np.float32)})
    found = buffer_bytes(space, spaces.Discrete(7), num_envs=3, n_steps=2)
    # Stable-Baselines3 keeps an action as float32 in older versions and as int64 in newer ones.
    assert found in {6 * (4 * 80 + action + 6 * 4) for action in (4, 8)}


def test_canvit_bs_buffer_fits() -> None:
    space = Observations(rollout=canvit_b()).space
    found = buffer_bytes(space, spaces.Discrete(192), num_envs=64, n_steps=64)
    one = sum(4 * int(np.prod(part.shape or ())) for part in space.values())
    assert 4096 * one < found < 4e9


def test_a_chosen_glimpse_pays_its_share_of_the_first() -> None:
    one = glimpse_flops(CanViTConfig(), glimpse_grid=8, canvas_grid=32)
    assert backbone_flops(canvit_b()) == 1.25 * one
