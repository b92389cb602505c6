"""Which packages are installed: all of canvit_gym, and the folder agents as canvit_agents."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["canvit_gym", "canvit_gym.*"]),
        *(f"canvit_{name}" for name in find_packages(include=["agents", "agents.*"])),
    ],
    package_dir={"canvit_agents": "agents"},
)
