"""The command line: what it calls, what it prints, how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from canvit_agents.cli.main import main
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.model.identity import identify
from canvit_gym.training.teachers import TeacherFeatures

ENV = "CanViT-Emoji-v0"


@pytest.fixture
def backbone(mini_checkpoint: str) -> list[str]:
    return ["--env-kwargs", f"backbone={mini_checkpoint}"]


@pytest.fixture
def trained(
    make_vector: Callable[..., CanViTVectorEnv],
    save_untrained: Callable[..., Path],
    mini_checkpoint: str,
) -> Path:
    """A policy directory for `backbone`, with a budget of two."""
    env = make_vector(1, action="cell", budget=2)
    env.backbone = identify(mini_checkpoint)
    kwargs = {"action": "cell", "budget": 2, "backbone": mini_checkpoint}
    return save_untrained(env, env_kwargs=kwargs)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, trained: Path) -> list[dict[str, Any]]:
    """What `learning.train.train` is asked for; it answers with a policy that learned nothing."""
    asked: list[dict[str, Any]] = []

    def train(**kwargs: Any) -> Path:
        asked.append(kwargs)
        return trained

    module = ModuleType("canvit_agents.learning.train")
    module.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "canvit_agents.learning.train", module)
    return asked


def test_evaluate_prints_a_table_and_writes_the_summary(
    backbone: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    arguments = ["evaluate", "--env", ENV, "--policies", "full_then_random", "target"]
    arguments += ["--scenes", "3", "--budget", "2", "--out", str(out), "--pictures", "1"]
    assert main([*arguments, *backbone]) == 0
    printed = capsys.readouterr().out
    assert "full_then_random" in printed and str(out / "summary.json") in printed
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["num_scenes"], summary["budget"], summary["split"]) == (3, 2, "test")
    assert (out / "manifest.json").is_file() and len(list(out.glob("*.parquet"))) == 2
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        "000000-full_then_random.png",
        "000000-target.png",
    ]


def test_saved_runs_are_compared(
    backbone: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--env", ENV, "--scenes", "3", "--budget", "1", *backbone]
    for name in ("target", "random"):
        out = str(tmp_path / name)
        assert main([*arguments, "--policies", name, "--out", out, "--regret", "2"]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "target"), f"{tmp_path / 'random'}:random"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy after each glimpse, 3 scenes, paired" in shown and "\nt1 " in shown
    arguments[arguments.index("3")] = "2"
    assert main([*arguments, "--policies", "target", "--out", str(tmp_path / "two")]) == 0
    assert main(["compare", str(tmp_path / "two"), str(tmp_path / "random")]) == 2
    assert "differ in scenes, so" in capsys.readouterr().err


def test_headroom_before_any_training(
    backbone: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["headroom", "--env", ENV, "--scenes", "2", "--budget", "1", "--candidates", "2"]
    assert main([*arguments, "--out", str(tmp_path), *backbone]) == 0
    shown = capsys.readouterr().out
    assert "score: share of the way from full_then_random to oracle at t1" in shown
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["split"] == "test" and "fixed_sequence" in summary["score"]


def test_all_scenes_where_there_are_few(
    env_kwargs: dict[str, dict[str, Any]], tmp_path: Path, imagenet_folder: Path
) -> None:
    arguments = ["evaluate", "--env", "CanViT-IN1k-v0", "--policies", "repeated_full_scene"]
    arguments += ["--split", "all", "--scenes-root", str(imagenet_folder), "--budget", "1"]
    settings = {k: v for k, v in env_kwargs["CanViT-IN1k-v0"].items() if k != "scenes"}
    arguments += ["--env-kwargs", *(f"{key}={value}" for key, value in settings.items())]
    for i, scenes in enumerate(([], ["--scenes", "all"])):
        assert main([*arguments, *scenes, "--out", str(tmp_path / str(i))]) == 0
        summary = json.loads((tmp_path / str(i) / "summary.json").read_text())
        assert summary["num_scenes"] == 8


def test_evaluate_makes_the_environment_of_the_trained_policy(
    trained: Path, tmp_path: Path
) -> None:
    arguments = ["evaluate", "--env", ENV, "--policies", str(trained), "full_then_random"]
    assert main([*arguments, "--scenes", "2", "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["budget"] == 2
    assert f"{trained} - full_then_random" in summary["paired"]


def test_a_policy_that_stops_is_printed_with_its_glimpses(
    make_vector: Callable[..., CanViTVectorEnv],
    save_untrained: Callable[..., Path],
    mini_checkpoint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    env = make_vector(1, budget=2, stop_action=True)
    env.backbone = identify(mini_checkpoint)
    kwargs = {"budget": 2, "backbone": mini_checkpoint, "stop_action": True}
    directory = save_untrained(env, env_kwargs=kwargs, seed=2)
    arguments = ["evaluate", "--env", ENV, "--policies", str(directory), "full_then_random"]
    assert main([*arguments, "--scenes", "12"]) == 0
    head, stopping, random = capsys.readouterr().out.splitlines()[2:]
    assert head.split()[5:7] == ["glimpses", "GFLOPs"]
    assert float(stopping.split()[5]) < 3 and random.split()[5] == "3.00"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--policies", "best"], "no policy 'best'"),
        (["--policies", "random", "--split", "holidays"], "holidays"),
        (["--policies", "random", "--scenes", "200000"], "give a number from 1 to 100000"),
        (["--policies", "random", "--pictures", "2"], "--out"),
        (["--policies", "random", "--env-kwargs", "colour=red"], "'colour'"),
        (["--policies", "random", "--env-kwargs", "stop_action=yes"], "stop_action is 'yes'"),
        (["--policies", "random", "--env-kwargs", "glimpse_cost=-1"], "glimpse_cost is -1"),
        (["--policies", "random", "--env", "CanViT-Nowhere-v0"], "Nowhere"),
        (["--policies", "random", "--env", "CartPole-v1"], "CartPole-v1"),
        (["--policies", "random", "--env-kwargs", "backbone=/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    complaint: str,
    backbone: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "--env-kwargs" in arguments:
        given = arguments[arguments.index("--env-kwargs") + 1]
        backbone = [*backbone, given]
        arguments = [a for a in arguments if a not in ("--env-kwargs", given)]
    assert main(["evaluate", "--env", ENV, *arguments, *backbone]) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("error: ") and complaint in printed


def test_another_backbone_is_refused(
    trained: Path, imagenet_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = json.loads((trained / "policy.json").read_text())
    card["backbone"]["sha256"] = "e" * 64
    (trained / "policy.json").write_text(json.dumps(card))
    assert main(["evaluate", "--env", ENV, "--policies", str(trained), "--scenes", "2"]) == 2
    assert "sha256 eeeeeeeeeeee" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["evaluate", "--env", ENV],
        ["evaluate", "--env", ENV, "--policies", "random", "--scenes", "0"],
        ["evaluate", "--env", ENV, "--policies", "random", "--env-kwargs", "budget"],
        ["evaluate", "--env", ENV, "--policies", "random", "--scenes", "most"],
        ["evaluate", "--env", ENV, "--policies", "random", "--regret", "0"],
        ["headroom"],
        ["compare", "one"],
        ["train", "--env", ENV],
        ["train", "--env", ENV, "--out", "x", "--action", "jump"],
    ],
)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: canvit-gym" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["headroom", "train", "evaluate", "compare", "play", "demo"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert ("--out" in shown) == (command not in ("compare", "play"))
    assert ("hub:" in shown) == (command == "evaluate")


def test_train(training: list[dict[str, Any]], tmp_path: Path) -> None:
    arguments = ["train", "--env", ENV, "--out", str(tmp_path), "--timesteps", "64", "--seed", "3"]
    arguments += ["--num-envs", "8", "--action", "box", "--budget", "2", "--resume"]
    arguments += ["--env-kwargs", "cell_scales=(0.25, 0.5)", "reward=prob"]
    arguments += ["stop_action=true", "glimpse_cost=0.1", "--warm-start", "9"]
    arguments += ["--config", "mine.yaml", "--set", "ppo.learning_rate=1e-4", "reward_clip=2"]
    assert main(arguments) == 0
    assert training == [
        {
            "env_id": ENV,
            "out": tmp_path,
            "env_kwargs": {
                "budget": 2,
                "action": "box",
                "cell_scales": (0.25, 0.5),
                "reward": "prob",
                "stop_action": True,
                "glimpse_cost": 0.1,
            },
            "timesteps": 64,
            "warm_start": 9,
            "seed": 3,
            "num_envs": 8,
            "learner": "ppo",
            "resume": True,
            "config": Path("mine.yaml"),
            "hyperparameters": {"ppo": {"learning_rate": 1e-4}, "reward_clip": 2},
        }
    ]


def test_train_leaves_defaults_to_the_environment(
    training: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert main(["train", "--env", f"canvit_gym:{ENV}", "--out", str(tmp_path)]) == 0
    (asked,) = training
    assert asked["env_id"] == ENV
    assert asked["env_kwargs"] == {}
    assert asked["timesteps"] is None and asked["num_envs"] is None and not asked["resume"]


def test_demo_trains_judges_and_draws(
    training: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path), "--timesteps", "8", "--scenes", "3"]) == 0
    assert training[0]["timesteps"] == 8
    printed = capsys.readouterr().out
    assert "learned" in printed and "target" in printed
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    assert summary["num_scenes"] == 3
    assert "learned - full_then_random" in summary["paired"]
    pictures = list((tmp_path / "pictures").glob("*-learned.png"))
    assert len(pictures) == 3


def test_a_bug_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, training: list[dict[str, Any]], tmp_path: Path
) -> None:
    def broken(**kwargs: Any) -> Path:
        raise TypeError("unsupported operand")

    monkeypatch.setattr(sys.modules["canvit_agents.learning.train"], "train", broken)
    with pytest.raises(TypeError, match="unsupported operand"):
        main(["train", "--env", ENV, "--out", str(tmp_path)])


def test_help_is_quick() -> None:
    """Nothing heavy is imported before a command runs."""
    code = (
        "import sys; from canvit_agents.cli.main import make_parser; make_parser(); "
        "print([m for m in ('torch', 'stable_baselines3', 'pyarrow', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("module", ["stable_baselines3", "yaml"])
def test_a_missing_extra_is_named_with_its_remedy(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None; "
        "from canvit_agents.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    asked = ["train", "--env", ENV, "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "which is not installed; run `pip install '" in done.stderr and "[agents]" in done.stderr


def test_an_environment_of_ones_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mini_checkpoint: str,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_looking.py").write_text(
        "import gymnasium as gym\n"
        "from canvit_gym.envs.make import EnvFactory, naming\n"
        "from canvit_gym.geometry import MINI_GLIMPSE\n"
        "from canvit_gym.scenes.emoji import EmojiScenes\n"
        "def setting(*, split='train', **options):\n"
        "    return naming(scenes=EmojiScenes(split=split), glimpse=MINI_GLIMPSE, **options)\n"
        "env = EnvFactory('MyLooking-v0', setting)\n"
        "vector_env = env.vector\n"
        "gym.register('MyLooking-v0', entry_point='my_looking:env',\n"
        "             vector_entry_point='my_looking:vector_env')\n"
    )
    asked = [
        "evaluate",
        "--env",
        "my_looking:MyLooking-v0",
        "--scenes",
        "2",
        "--policies",
        "random",
    ]
    assert main([*asked, "--env-kwargs", f"backbone={mini_checkpoint}"]) == 0
    assert "MyLooking-v0, test split, 2 scenes" in capsys.readouterr().out
    assert main(["evaluate", "--env", "no_such:X-v0", "--policies", "random"]) == 2
    assert "module 'no_such' of 'no_such:X-v0' can not be imported" in capsys.readouterr().err
    assert (
        main(["evaluate", "--env", ENV, "--policies", "random", "--env-kwargs", "split=all"]) == 2
    )
    assert "split is 'all' among the keyword arguments; give it by --split." in (
        capsys.readouterr().err
    )


def test_features_are_indexed_exported_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Brightness:
        name, dim, classifier = "brightness", 1, None

        def patch_grid(self, size_px: int) -> int:
            return 1

        def __call__(self, pictures: torch.Tensor) -> TeacherFeatures:
            cls = pictures.float().mean((1, 2, 3))[:, None]
            return TeacherFeatures(cls[:, None], cls)

    monkeypatch.setattr("canvit_gym.training.teachers.load_teacher", lambda *_, **__: Brightness())
    folder, index, out = tmp_path / "pictures", str(tmp_path / "i.parquet"), str(tmp_path / "out")
    for number in range(3):
        (folder / "class").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number,) * 3).save(folder / "class" / f"{number}.png")
    assert main(["features", "index", str(folder), "--out", index]) == 0
    assert main(["features", "index", str(folder), "--out", index]) == 2
    assert "shards may depend on it" in capsys.readouterr().err
    export = ["features", "export", index, str(folder), "--out", out, "--teacher", "brightness"]
    assert main([*export, "--size", "8", "--workers", "0"]) == 0
    capsys.readouterr()
    assert main(["features", "check", out]) == 0
    assert capsys.readouterr().out == "3 pictures in 1 shards, 0 unreadable\n"
