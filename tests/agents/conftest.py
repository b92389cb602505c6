"""Trained policies small enough to make in a test, and a browser for pages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from canvit_gym.envs.vector_env import CanViTVectorEnv


@pytest.fixture
def save_untrained(tmp_path: Path) -> Callable[..., Path]:
    """Writes a policy directory as `learning.train` does, with a network that learned nothing."""
    ppo = pytest.importorskip("stable_baselines3").PPO
    from canvit_gym.adapters.sb3 import CanViTVecEnv

    def save(env: CanViTVectorEnv, /, *, name: str = "policy", **card: Any) -> Path:
        with torch.random.fork_rng(devices=[]):
            model = ppo(
                "MultiInputPolicy",
                CanViTVecEnv(env),
                n_steps=2,
                batch_size=2 * env.num_envs,
                policy_kwargs={"net_arch": [8]},
                seed=0,
                device="cpu",
            )
        directory = tmp_path / name
        directory.mkdir()
        model.save(directory / "policy.zip")
        backbone = {"name": env.backbone.name, "sha256": env.backbone.sha256}
        known = {
            "env": "CanViT-Emoji-v0",
            "env_kwargs": {},
            "backbone": backbone,
            "algorithm": "ppo",
            "seed": 0,
            "timesteps": 0,
        }
        (directory / "policy.json").write_text(json.dumps({**known, **card}))
        return directory

    return save


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """Headless Chromium; only where it and its driver are installed."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    browser, its_driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or its_driver is None:
        pytest.skip("chromium or chromedriver is not installed (apt: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(its_driver))
    yield driver
    driver.quit()


@pytest.fixture
def browse(driver: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file or an address in a window of this size and theme, and sees to it that nothing
    complains."""

    def browse(page: Path | str, *, width: int = 1200, theme: str = "light") -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = [{"name": "prefers-color-scheme", "value": theme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        driver.get(page if isinstance(page, str) else page.as_uri())
        return driver

    driver.get_log("browser")
    yield browse
    assert driver.get_log("browser") == []
