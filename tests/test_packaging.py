"""What users install: the wheel works elsewhere without the extras, and brings its data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

_MAKE_WITHOUT_EXTRAS = """
import sys
for name in ("stable_baselines3", "yaml", "tensorboard", "matplotlib", "pyarrow"):
    sys.modules[name] = None  # importing it now raises, as if it were not installed
import gymnasium
for env_id in ("CanViT-Emoji-v0", "CanViT-EmojiSeg-v0"):
    env = gymnasium.make("canvit_gym:" + env_id, split="test")
    observation, info = env.reset(seed=0)
    _, reward, *_ = env.step(env.action_space.sample())
import canvit_gym
print(canvit_gym.__file__)
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_elsewhere_without_the_extras(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    # Built from the source distribution, so that a file missing from either shows.
    run(sys.executable, "-m", "build", "--outdir", str(wheels), str(ROOT), cwd=tmp_path)
    (wheel,) = wheels.glob("*.whl")
    install = ("-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel))
    run(sys.executable, *install, cwd=tmp_path)

    printed = run(sys.executable, "-c", _MAKE_WITHOUT_EXTRAS, cwd=tmp_path, PYTHONPATH=str(site))
    assert Path(printed.strip()).is_relative_to(site)
    for name in ("mini", "mini_seg_probe"):
        assert (site / "canvit_gym/assets" / name / "README.md").is_file()
    assert list((site / "canvit_gym/assets/sprites").glob("LICENSE*"))
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {
        "bin",  # the console script
        "canvit_agents",
        "canvit_gym",
    }
    # Every module and every file that modules read, wherever the folder is installed.
    for folder, package in (("canvit_gym", "canvit_gym"), ("agents", "canvit_agents")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (site / package / path.relative_to(ROOT / folder)).is_file(), path


def test_the_committed_checkpoint_is_small() -> None:
    weights = ROOT / "canvit_gym/assets/mini/model.safetensors"
    assert weights.stat().st_size <= 12 * 2**20
