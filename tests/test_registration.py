"""Ids: found with and without an import, described by their specs, light to import."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence

import canvit_gym
from canvit_gym.registration import register_environments

IDS = sorted(env_id for env_id in gym.registry if env_id.startswith("CanViT-"))


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120
    )


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, canvit_gym; print([m for m in ('torch', 'PIL') if m in sys.modules])"
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stderr


def test_an_id_with_the_module_name_needs_no_import(mini_checkpoint: str) -> None:
    code = (
        "import sys, gymnasium as gym; assert 'canvit_gym' not in sys.modules; "
        "env = gym.make('canvit_gym:CanViT-Emoji-v0', backbone=sys.argv[1]); "
        "print(env.reset(seed=0)[0]['canvas'].shape)"
    )
    result = run_python(code, mini_checkpoint)
    assert result.stdout.strip() == "(128, 8, 8)", result.stderr


def test_registering_again_is_harmless() -> None:
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_environments()
    assert dict(gym.registry) == before
    assert canvit_gym.register_environments is register_environments
    assert {"CanViT-Emoji-v0", "CanViT-IN1k-v0"} <= set(IDS)


@pytest.mark.parametrize("env_id", IDS)
def test_a_spec_survives_json_and_pickle(
    env_id: str, env_kwargs: dict[str, dict[str, Any]]
) -> None:
    env = gym.make(env_id, budget=2, action="tile", **env_kwargs[env_id])
    assert env.spec is not None
    text = env.spec.to_json()
    assert json.loads(text)["kwargs"]["budget"] == 2
    observation, _ = env.reset(seed=7)
    for spec in (EnvSpec.from_json(text), pickle.loads(pickle.dumps(env.spec))):
        assert spec == env.spec
        again = gym.make(spec)
        assert again.action_space == env.action_space
        assert data_equivalence(again.reset(seed=7)[0], observation, exact=True)


@pytest.mark.parametrize("env_id", IDS)
def test_make_vec_finds_the_native_vector_env(
    env_id: str, env_kwargs: dict[str, dict[str, Any]]
) -> None:
    envs = gym.make_vec(
        env_id, num_envs=2, vectorization_mode="vector_entry_point", **env_kwargs[env_id]
    )
    single = gym.make(env_id, **env_kwargs[env_id])
    observation, _ = envs.reset(seed=3)
    assert type(envs).__name__ == "CanViTVectorEnv"
    assert envs.single_observation_space == single.observation_space
    for i in range(2):
        expected, _ = single.reset(seed=3 + i)
        for key, value in expected.items():
            np.testing.assert_allclose(observation[key][i], value, atol=1e-4)
