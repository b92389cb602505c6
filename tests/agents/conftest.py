"""Trained policies small enough to make in a test, and a browser for pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces

from canvit_agents.policies.networks import NetworkConfig, PolicyNetwork
from canvit_agents.policies.saved import PolicyRecord, save_policy
from canvit_gym.envs.actions import ListedActions
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.files import plain_json


@pytest.fixture
def save_untrained(tmp_path: Path) -> Callable[..., Path]:
    """Writes a policy directory as training does, with a network that learned nothing."""

    def save(
        env: CanViTVectorEnv,
        /,
        *,
        name: str = "policy",
        env_id: str = "CanViT-Emoji-v0",
        env_kwargs: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> Path:
        scales = env.actions.scales if isinstance(env.actions, ListedActions) else ()
        assert isinstance(env.single_observation_space, spaces.Dict)
        config = NetworkConfig.for_spaces(
            env.single_observation_space, env.single_action_space, channels=4, cell_scales=scales
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = PolicyNetwork.build(config)
        record = PolicyRecord(
            env=env_id,
            env_kwargs=plain_json(env_kwargs or {}, name="env_kwargs"),
            backbone=env.backbone,
            network=config,
            training={"algorithm": "none", "seed": 0, "timesteps": 0},
        )
        save_policy(tmp_path / name, network, record)
        return tmp_path / name

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
