"""What users install: the wheel works elsewhere without the extras, and brings its data."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path

import gymnasium
import pytest

ROOT = Path(__file__).parents[1]

_MAKE_WITHOUT_EXTRAS = """
import sys
for name in ("stable_baselines3", "yaml", "tensorboard", "matplotlib", "pyarrow"):
    sys.modules[name] = None  # importing it now raises, as if it were not installed
import gymnasium
for env_id in ("CanViT-Emoji-v0", "CanViT-EmojiSeg-v0", "CanViT-IN1k-v0"):
    # By its name, for asking for the official one needs PyYAML, which the hub's library brings.
    own = {"backbone": "mini-in1k"} if env_id == "CanViT-IN1k-v0" else {}
    env = gymnasium.make("canvit_gym:" + env_id, split="test", **own)
    observation, info = env.reset(seed=0)
    _, reward, *_ = env.step(env.action_space.sample())
import canvit_gym
print(canvit_gym.__file__)
"""


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = str(Path(gymnasium.__file__).parents[1])  # where this environment's packages are


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


_NOT_SOURCE = (".git", ".venv*", "*.egg-info", "build", "dist", "runs", "__pycache__", ".*_cache")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, so that a file missing from either shows."""
    folder = tmp_path_factory.mktemp("wheels")
    # From a copy: building writes into the source, and tests run side by side.
    source = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*_NOT_SOURCE))
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(source), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def site(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, alone."""
    (wheel,) = wheels.glob("*.whl")
    folder = tmp_path_factory.mktemp("site")
    install = ("-m", "pip", "install", "--no-deps", "--target", str(folder), str(wheel))
    run(sys.executable, *install, cwd=folder)
    return folder


@pytest.mark.slow
def test_the_wheel_works_elsewhere_without_the_extras(site: Path, tmp_path: Path) -> None:
    printed = run(sys.executable, "-c", _MAKE_WITHOUT_EXTRAS, cwd=tmp_path, PYTHONPATH=str(site))
    assert Path(printed.strip()).is_relative_to(site)


@pytest.mark.slow
def test_the_wheel_brings_two_packages_and_all_their_files(site: Path) -> None:
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {
        "bin",  # the console script
        "canvit_agents",
        "canvit_gym",
    }
    # Every module and every file that modules read, wherever the folder is installed.
    for folder, package in (("canvit_gym", "canvit_gym"), ("agents", "canvit_agents")):
        assert (site / package / "py.typed").is_file()
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (site / package / path.relative_to(ROOT / folder)).is_file(), path


@pytest.mark.slow
def test_the_wheel_says_what_it_is(site: Path) -> None:
    (record,) = site.glob("canvit_gym-*.dist-info")
    metadata = message_from_string((record / "METADATA").read_text(encoding="utf-8"))
    for field, name in (("Name", "name"), ("Version", "version"), ("Summary", "description")):
        assert metadata[field] == PROJECT[name]
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == PROJECT["license"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "CanViT" in metadata.get_payload()
    assert metadata.get_all("Provides-Extra") == [*PROJECT["optional-dependencies"]]
    assert [tuple(url.split(", ")) for url in metadata.get_all("Project-URL", [])] == [
        *PROJECT["urls"].items()
    ]
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert needed == PROJECT["dependencies"]
    # Ours, and those of the sprites: each beside the record and named in it.
    licences = {str(path.relative_to(ROOT)) for path in ROOT.glob("canvit_gym/assets/**/LICENSE*")}
    assert licences and {*metadata.get_all("License-File", [])} == licences | {"LICENSE"}
    for name in licences | {"LICENSE"}:
        assert (record / "licenses" / name).read_bytes() == (ROOT / name).read_bytes()
    scripts = ConfigParser()
    scripts.read(record / "entry_points.txt")
    assert scripts.sections() == ["console_scripts"]
    assert dict(scripts["console_scripts"]) == PROJECT["scripts"]
    assert {*(record / "top_level.txt").read_text().split()} == {"canvit_agents", "canvit_gym"}


@pytest.mark.slow
def test_the_command_is_installed(site: Path, tmp_path: Path) -> None:
    printed = run(str(site / "bin/canvit-gym"), "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert printed.startswith("usage: canvit-gym")
    module = run(sys.executable, "-m", "canvit_agents", "-h", cwd=tmp_path, PYTHONPATH=str(site))
    assert module == printed


@pytest.mark.slow
def test_the_source_distribution_holds_what_it_is_built_from(wheels: Path) -> None:
    (source,) = wheels.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE"} <= names
    assert "agents/cli/main.py" in names and not [n for n in names if n.startswith("runs/")]


@pytest.mark.slow
def test_an_editable_install_is_the_checkout(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    for name in ("canvit_gym", "agents"):
        shutil.copytree(ROOT / name, checkout / name)
    # Without --ignore-installed pip would remove the installation that the tests run from.
    install = ("-m", "pip", "install", "--no-deps", "--ignore-installed")
    install += ("--prefix", str(tmp_path / "prefix"))
    run(sys.executable, *install, "--editable", str(checkout), cwd=tmp_path)
    (packages,) = (tmp_path / "prefix").rglob("site-packages")
    code = (
        f"import site, sys; site.addsitedir({str(packages)!r}); sys.path.append({DEPENDENCIES!r})\n"
        "sys.meta_path.insert(0, sys.meta_path.pop())\n"  # another installation comes after it
        "import canvit_agents.cli.main, canvit_gym, canvit_gym.errors\n"
        "print(canvit_agents.__file__, canvit_gym.__file__, canvit_gym.__version__)\n"
        "print(canvit_gym.errors.missing_extra('It', package='x', extra='agents'))"
    )
    # -S: this environment's own installation of the package stays out of sight.
    where, hint = run(sys.executable, "-I", "-S", "-c", code, cwd=tmp_path).splitlines()
    assert where.split() == [
        str(checkout / "agents/__init__.py"),
        str(checkout / "canvit_gym/__init__.py"),
        PROJECT["version"],
    ]
    assert f"run `pip install '{checkout}[agents]'`" in hint


def test_a_checkout_runs_without_being_installed() -> None:
    command = (sys.executable, "-S", "-m", "agents", "--help")
    printed = run(*command, cwd=ROOT, PYTHONPATH=DEPENDENCIES)
    assert printed.startswith("usage: canvit-gym")


def test_lowest_versions_are_those_of_the_project() -> None:
    """`make test-lowest` tests what pyproject.toml allows."""
    extra = PROJECT["optional-dependencies"]["agents"]
    stated = {line.replace(">=", "==") for line in PROJECT["dependencies"] + extra}
    lines = (ROOT / ".ci/lowest.txt").read_text().splitlines()
    tested = {line for line in lines if line and not line.startswith("#")}
    for line in stated:
        name, _, version = line.partition("==")
        assert any(
            pin == line or pin.startswith((f"{line}.", f"{name}=={version}.")) for pin in tested
        ), line
    assert len(tested) == len(stated)


def test_the_committed_checkpoint_is_small() -> None:
    weights = ROOT / "canvit_gym/assets/mini/model.safetensors"
    assert weights.stat().st_size <= 12 * 2**20
