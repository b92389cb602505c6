"""Training: hyperparameters go over those of the YAML, and what it leaves behind can be played."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from canvit_agents.judging.evaluate import evaluate, make_benchmark
from canvit_agents.judging.playing import play
from canvit_agents.learning import train as module
from canvit_agents.learning.run import Run
from canvit_agents.learning.train import changed, load_hyperparameters, train
from canvit_agents.policies import load_policy, make_policies, trained_env_kwargs

ENV = "CanViT-Emoji-v0"
SMALL: dict[str, Any] = {  # a training of seconds
    "timesteps": 32,
    "num_envs": 4,
    "policy": {"channels": 8},
    "warm_start": {"glimpses": 16, "batch_size": 8},
    "ppo": {"n_steps": 4, "batch_size": 16, "n_epochs": 1},
}


def test_hyperparameters_are_changed_key_by_key() -> None:
    settings = load_hyperparameters(ENV)
    new = changed(settings, {"ppo": {"gamma": 0.5}, "reward_clip": 1.0})
    assert new["ppo"] == {**settings["ppo"], "gamma": 0.5} and new["reward_clip"] == 1.0
    assert {k: v for k, v in new.items() if k not in ("ppo", "reward_clip")} == {
        k: v for k, v in settings.items() if k not in ("ppo", "reward_clip")
    }
    assert settings == load_hyperparameters(ENV)
    with pytest.raises(ValueError, match="'gains'.*this environment has timesteps, num_envs, env"):
        changed(settings, {"gains": {"glimpses": 8}})


def test_a_short_run_makes_a_policy_that_plays(
    mini_checkpoint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kwargs = {"backbone": mini_checkpoint, "budget": 2}
    directory = train(
        env_id=ENV,
        out=tmp_path / "policy",
        env_kwargs=kwargs,
        hyperparameters=SMALL,
        progress=False,
    )
    assert capfd.readouterr() == ("", "")
    curve = [json.loads(line) for line in (directory / "curve.jsonl").read_text().splitlines()]
    assert [entry["timesteps"] for entry in curve] == [16, 32]
    env = make_benchmark(ENV, env_kwargs={**kwargs, "action": "cell"}).env
    policy = load_policy(directory, env_id=ENV, env=env)
    assert policy.network.config.channels == 8
    seen = play(policy, scenes=env.scenes, num_scenes=2)
    assert seen.viewpoints.shape == (2, 3, 3)


def test_a_run_shorter_than_a_rollout_does_not_unlearn(
    mini_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whole rollouts go beyond what was asked for, where a line that falls goes below zero.
    rates = []
    step = torch.optim.Adam.step

    def recorded(self: torch.optim.Adam, *args: Any) -> Any:
        rates.extend(group["lr"] for group in self.param_groups)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    kwargs = {"backbone": mini_checkpoint, "budget": 2}
    changes = {**SMALL, "warm_start": {"glimpses": 0}}
    train(env_id=ENV, out=tmp_path, env_kwargs=kwargs, timesteps=2, hyperparameters=changes)
    assert rates and min(rates) >= 0


def test_an_interrupted_warm_start_is_not_lost(
    mini_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, run: Run, **kwargs: Any) -> None:
        run.save_snapshot(done=8)
        raise KeyboardInterrupt

    asked = {
        "env_id": ENV, "out": tmp_path, "env_kwargs": {"backbone": mini_checkpoint, "budget": 2},
        "hyperparameters": SMALL,
    }  # fmt: skip
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("canvit_agents.learning.ppo.warm_start", interrupted)
        train(**asked)
    with pytest.raises(FileExistsError, match="the beginning of one; add --resume"):
        train(**asked)
    continued = []
    monkeypatch.setattr(
        "canvit_agents.learning.ppo.warm_start",
        lambda *a, run, **k: continued.append(run.restored["done"]),
    )
    train(**asked, resume=True)
    assert continued == [8]
    assert (tmp_path / "policy.safetensors").exists()
    # What was trained with one seed does not go on with another, whenever it was interrupted.
    with pytest.raises(ValueError, match="trained with another seed; repeat its settings"):
        train(**asked, seed=1, resume=True)


@pytest.mark.parametrize("action", ["cell", "box"])
def test_a_policy_that_may_stop(mini_checkpoint: str, tmp_path: Path, action: str) -> None:
    kwargs: dict[str, Any] = {
        "backbone": mini_checkpoint, "action": action, "stop_action": True, "glimpse_cost": 0.25,
        "budget": 2,
    }  # fmt: skip
    small = {**SMALL, "policy": {"channels": 8, "sums_crops": True}}
    asked = {"env_id": ENV, "out": tmp_path, "env_kwargs": kwargs, "hyperparameters": small}
    directory = train(**asked)
    record = json.loads((directory / "policy.json").read_text())
    assert kwargs.items() <= record["env_kwargs"].items()
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
    train(**asked, timesteps=48, resume=True)
    assert json.loads((directory / "policy.json").read_text())["training"]["timesteps"] == 48
    # What is saved says nothing of the machine, and a resumed run still logs where it did.
    files = [path for path in directory.iterdir() if path.is_file()]
    assert not [path for path in files if str(tmp_path / "policy").encode() in path.read_bytes()]
    assert len(list((directory / "tensorboard").iterdir())) == 1


def test_a_resumed_run_repeats_no_line_of_its_curve(
    mini_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the last snapshot: the lines since then come again, once."""
    asked = {
        "env_id": ENV, "out": tmp_path, "env_kwargs": {"backbone": mini_checkpoint, "budget": 2},
        "hyperparameters": {**SMALL, "warm_start": {"glimpses": 0}}, "progress": False,
    }  # fmt: skip
    monkeypatch.setattr("canvit_agents.learning.ppo._SAVE_EVERY_UPDATES", 2)
    report, reports = Run.report, []

    def killed(self: Run, *args: Any, **kwargs: Any) -> None:
        report(self, *args, **kwargs)
        reports.append(1)
        if len(reports) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "report", killed)
        train(**asked, timesteps=96)

    def timesteps() -> list[int]:
        lines = (tmp_path / "curve.jsonl").read_text().splitlines()
        return [json.loads(line)["timesteps"] for line in lines]

    assert timesteps() == [16, 32, 48]
    with (tmp_path / "curve.jsonl").open("a") as curve:
        curve.write('{"timesteps": 6')  # cut off by a power cut
    train(**asked, timesteps=96, resume=True)
    assert timesteps() == [16, 32, 48, 64, 80, 96]


@pytest.mark.parametrize("kwargs", [{"backbone": Path}, {"cell_scales": tuple}, {"budget": int}])
def test_records_are_plain_json(
    kwargs: dict[str, Any], mini_checkpoint: str, tmp_path: Path
) -> None:
    """Paths, tuples and numpy's numbers are taken, recorded and resumed."""
    given: dict[str, Any] = {"backbone": mini_checkpoint, "budget": 2}
    given |= {
        "backbone": {"backbone": Path(mini_checkpoint)},
        "cell_scales": {"cell_scales": (np.float32(0.25), 0.5)},
        "budget": {"glimpse_cost": np.float64(0.5)},
    }[next(iter(kwargs))]
    small = {**SMALL, "warm_start": {"glimpses": np.int64(0)}}
    asked = {"env_id": ENV, "out": tmp_path, "env_kwargs": given, "hyperparameters": small}
    train(**asked, progress=False)
    train(**asked, timesteps=64, resume=True, progress=False)
    record = json.loads((tmp_path / "policy.json").read_text())
    assert record["training"]["timesteps"] == 64
    assert set(given) <= set(record["env_kwargs"])


def test_a_place_that_can_not_be_written_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file can not be written: .*part of that path is a file"):
        train(env_id=ENV, out=tmp_path / "file", env_kwargs={"backbone": "nowhere"})


def test_a_damaged_snapshot_is_named(mini_checkpoint: str, tmp_path: Path) -> None:
    asked = {
        "env_id": ENV, "out": tmp_path, "env_kwargs": {"backbone": mini_checkpoint, "budget": 2},
        "hyperparameters": {**SMALL, "warm_start": {"glimpses": 0}}, "progress": False,
    }  # fmt: skip
    train(**asked)
    snapshot = tmp_path / "training.pt"
    data = snapshot.read_bytes()
    for damage in (b"", data[: len(data) // 2], b"PK half of a file", pickle.dumps({"run": 1})):
        snapshot.write_bytes(damage)
        with pytest.raises(ValueError, match=r"training\.pt is damaged \(\w+\).*another --out"):
            train(**asked, timesteps=64, resume=True)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"timesteps": 20}, (20, 8)),  # half of the YAML's, so half of its warm start
        ({"timesteps": 80}, (80, 16)),
        ({"timesteps": 20, "warm_start": 5}, (20, 5)),
        ({"warm_start": 0}, (40, 0)),
        ({}, (40, 16)),
    ],
)
def test_a_shorter_training_has_a_shorter_warm_start(
    asked: dict[str, Any], expected: tuple[int, int]
) -> None:
    usual = {"timesteps": 40, "warm_start": {"glimpses": 16, "map": "target"}}
    settings = module._settings(usual, {}, **{"timesteps": None, "warm_start": None, **asked})
    assert (settings["timesteps"], settings["warm_start"]["glimpses"]) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("timesteps: [", "is no YAML"),
        ("7", "holds no hyperparameters"),
        ("timesteps: 8", "lacks 'num_envs', lacks 'env'"),
        ("{timesteps: x, gains: 1}", "has 'gains', which is unknown, has 'timesteps'"),
    ],
)
def test_a_bad_config_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"mine.yaml .*{complaint}"):
        train(env_id=ENV, out=tmp_path / "run", config=tmp_path / "mine.yaml")


def test_a_config_file_takes_the_place_of_the_ids(mini_checkpoint: str, tmp_path: Path) -> None:
    settings = changed(load_hyperparameters(ENV), {**SMALL, "warm_start": {"glimpses": 0}})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    kwargs = {"backbone": mini_checkpoint, "budget": 2}
    asked = {"env_id": ENV, "env_kwargs": kwargs, "config": tmp_path / "mine.yaml"}
    directory = train(**asked, out=tmp_path / "run", progress=False)
    record = json.loads((directory / "run.json").read_text())
    assert record["hyperparameters"]["policy"] == {"channels": 8}


def test_unknown_learners_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no learner 'sac'; choose one of ppo"):
        train(env_id=ENV, out=tmp_path, learner="sac")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ppo": {"learning_rat": 1}}, r"ppo\.learning_rat; ppo has .*learning_rate"),
        ({"warm_start": {"glimpse": 3}}, r"warm_start\.glimpse; warm_start has .*glimpses"),
        ({"policy": {"width": 3}}, r"policy\.width; policy has channels, sums_crops"),
        ({"ppo": 7}, "'ppo' is 7; it is a section"),
    ],
)
def test_unknown_names_in_sections_are_refused_before_anything_is_written(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        train(env_id=ENV, out=tmp_path / "run", hyperparameters=changes)
    assert not list((tmp_path / "run").iterdir())


def test_a_longer_run_goes_on_whatever_its_warm_start_was(
    mini_checkpoint: str, tmp_path: Path
) -> None:
    kwargs = {"backbone": mini_checkpoint, "budget": 2}
    small = {key: value for key, value in SMALL.items() if key not in ("timesteps", "warm_start")}
    asked = {
        "env_id": ENV, "out": tmp_path, "env_kwargs": kwargs, "hyperparameters": small,
        "progress": False,
    }  # fmt: skip
    train(**asked, timesteps=16)  # with a warm start in proportion: 125 glimpses
    train(**asked, timesteps=32, resume=True)
    record = json.loads((tmp_path / "policy.json").read_text())
    assert record["training"]["timesteps"] == 32
    assert set(record["training"]["versions"]) >= {"python", "torch", "canvit-gym"}
