"""Environments in other processes, made by fork after the parent used PyTorch: nothing hangs."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PRELUDE = """
import faulthandler, multiprocessing, sys
faulthandler.dump_traceback_later(90, exit=True)
import gymnasium as gym, numpy as np, torch, canvit_gym
torch.set_num_threads(2)
x = torch.randn(512, 512); (x @ x).sum()  # starts OpenMP's threads in the parent
BACKBONE = sys.argv[1]
def make(**kwargs):
    return gym.make("CanViT-Emoji-v0", backbone=BACKBONE, **kwargs)
env = make(); env.reset(seed=0); env.step(env.action_space.sample())
"""

_PROGRAMS = {
    "gymnasium's async vector environment": """
envs = gym.make_vec("CanViT-Emoji-v0", num_envs=2, vectorization_mode="async", backbone=BACKBONE)
envs.reset(seed=0)
_, reward, *_ = envs.step(envs.action_space.sample())
envs.close()
print(reward.shape)
""",
    "plain multiprocessing": """
def work(pipe):
    env.reset(seed=1)
    pipe.send(float(env.step(np.zeros(3, dtype=np.float32))[1]))
context = multiprocessing.get_context("fork")
here, there = context.Pipe()
process = context.Process(target=work, args=(there,)); process.start()
assert here.poll(60), "the child hangs"
env.reset(seed=1)
assert abs(here.recv() - float(env.step(np.zeros(3, dtype=np.float32))[1])) < 1e-4
process.join(); print(process.exitcode)
""",
    "a forked copy of an environment with threads": """
envs = gym.make_vec("CanViT-Emoji-v0", num_envs=3, vectorization_mode="vector_entry_point",
                    backbone=BACKBONE, budget=1, draw_ahead=1)
envs.reset(seed=0)
def work(pipe):
    for _ in range(3):
        infos = envs.step(np.zeros((3, 3), dtype=np.float32))[4]
    pipe.send(infos["scene"].tolist())
context = multiprocessing.get_context("fork")
here, there = context.Pipe()
process = context.Process(target=work, args=(there,)); process.start()
assert here.poll(60), "the child hangs"
found = here.recv(); process.join()
for _ in range(3):
    infos = envs.step(np.zeros((3, 3), dtype=np.float32))[4]
assert infos["scene"].tolist() == found
print(process.exitcode)
""",
    "Stable-Baselines3's SubprocVecEnv": """
from stable_baselines3.common.vec_env import SubprocVecEnv
envs = SubprocVecEnv([make, make], start_method="fork")
envs.seed(0); envs.reset()
_, reward, _, _ = envs.step(np.zeros((2, 3), dtype=np.float32))
envs.close()
print(reward.shape)
""",
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks are Linux's default")
@pytest.mark.parametrize("program", _PROGRAMS)
def test_it_runs_in_a_fork(program: str, mini_checkpoint: str) -> None:
    code = _PRELUDE + _PROGRAMS[program]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, mini_checkpoint],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in ("(2,)", "0")
