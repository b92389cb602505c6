"""Train a glimpse policy on the frozen backbone: what all learners share.

`learning.run` says what a run directory holds. Training saves as it goes, and `resume=True` goes on
from the last snapshot with the same schedules.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from canvit_agents.learning import learner_class
from canvit_agents.learning.run import Learner, Run
from canvit_gym import make_sb3_env
from canvit_gym.envs.backbones import settled
from canvit_gym.envs.options import recorded
from canvit_gym.files import plain_json, require_writable

_REQUIRED: dict[str, Any] = {
    "timesteps": int, "num_envs": int, "env": dict, "policy": dict, "ppo": dict,
    "reward_clip": (int, float),
}  # fmt: skip
_OPTIONAL: dict[str, Any] = {"warm_start": dict, "dataset_iou_reward": bool}
"""Names that a file of hyperparameters holds, by name and type."""


def load_hyperparameters(env_id: str) -> dict[str, Any]:
    """The YAML of an environment id; raises ValueError where there is none."""
    folder = files("canvit_agents") / "hyperparameters"
    path = folder / f"{env_id}.yaml"
    if not path.is_file():
        known = sorted(p.name.removesuffix(".yaml") for p in folder.iterdir())
        raise ValueError(
            f"There are no hyperparameters for {env_id!r}; give some in a file with --config, or "
            f"choose one of {', '.join(known)}."
        )
    return read_config(Path(str(path)))


def read_config(path: Path) -> dict[str, Any]:
    """Hyperparameters from a YAML file.

    Raises OSError where it can not be read, and ValueError where it holds no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no YAML ({reason}); correct it.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no hyperparameters; give names and values, as YAML.")
    known = {*_REQUIRED, *_OPTIONAL}
    wrong = [f"lacks {name!r}" for name in _REQUIRED if name not in values]
    wrong += [f"has {name!r}, which is unknown" for name in values if name not in known]
    wrong += [
        f"has {name!r}, which is no {'section' if kind is dict else 'number'}"
        for name, kind in {**_REQUIRED, **_OPTIONAL}.items()
        if name in values
        and not (isinstance(values[name], kind) and (kind is bool or values[name] is not True))
    ]
    if wrong:
        raise ValueError(f"{path} {', '.join(wrong)}; hyperparameters are {', '.join(known)}.")
    for section in ("policy", "ppo", "warm_start"):
        _require_known_in_section(section, values.get(section, {}))
    return values


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters with some of them replaced, those of a section key by key.

    Raises ValueError for names that `settings` do not have.
    """
    if unknown := sorted(set(changes) - set(settings)):
        raise ValueError(
            f"Unknown hyperparameters {', '.join(map(repr, unknown))}; this environment has "
            f"{', '.join(settings)}."
        )
    new = dict(settings)
    for key, change in changes.items():
        if not isinstance(settings[key], dict):
            new[key] = change
        elif isinstance(change, Mapping):
            new[key] = {**settings[key], **change}
            _require_known_in_section(key, change)
        else:
            raise ValueError(
                f"Hyperparameter {key!r} is {change!r}; it is a section with "
                f"{', '.join(settings[key])}, so give values by name."
            )
    return new


def _require_known_in_section(section: str, values: Mapping[str, Any]) -> None:
    """Raise ValueError for a name that the section has no use for."""
    known = _section_names(section)
    if known is not None and (unknown := sorted(set(values) - known)):
        raise ValueError(
            f"Unknown hyperparameters {', '.join(f'{section}.{name}' for name in unknown)}; "
            f"{section} has {', '.join(sorted(known))}."
        )


def _section_names(section: str) -> set[str] | None:
    """Names that a section may hold; None for that of the environment."""
    from stable_baselines3 import PPO

    from canvit_agents.learning.warm_start import warm_start

    if section == "ppo":
        given_here = {"self", "policy", "env", "policy_kwargs", "seed", "device", "tensorboard_log"}
        return set(signature(PPO.__init__).parameters) - given_here
    if section == "warm_start":
        return set(signature(warm_start).parameters) - {"model", "env", "run", "seed"}
    return {"channels", "sums_crops"} if section == "policy" else None


def train(
    *,
    env_id: str,
    out: Path,
    env_kwargs: dict[str, Any] | None = None,
    timesteps: int | None = None,
    warm_start: int | None = None,
    seed: int = 0,
    num_envs: int | None = None,
    learner: str = "ppo",
    resume: bool = False,
    config: Path | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Train and return the policy directory, `out`.

    config: a YAML file with hyperparameters, in place of the one that this package has for the id.
    env_kwargs and `hyperparameters` go over those, sections key by key. `timesteps` counts glimpses
    over all environments, without those of the warm start; `warm_start` counts those, 0 for none.
    Where only `timesteps` is given, and is less than usual, the warm start is shortened in
    proportion.

    Raises FileExistsError where `out` holds a policy or the beginning of one and `resume` is False,
    ValueError where a run to resume was made with other settings, and for hyperparameters that the
    YAML does not have, and OSError where `out` can not be written to.
    """
    require_writable(out)
    changes = plain_json(dict(hyperparameters or {}), name="hyperparameters")
    usual = load_hyperparameters(env_id) if config is None else read_config(config)
    settings = _settings(usual, changes, timesteps=timesteps, warm_start=warm_start)
    if num_envs is not None:
        settings["num_envs"] = num_envs
    kwargs = settled(env_id, {**settings["env"], **(env_kwargs or {})})
    if "split" in kwargs:
        raise ValueError(
            f"split is {kwargs['split']!r}, but policies always train on the split 'train'; leave "
            "it out."
        )
    make = learner_class(learner)
    deciding = recorded(kwargs)
    env = make_sb3_env(env_id, num_envs=settings["num_envs"], split="train", **kwargs)
    trained: Learner = make(
        env, settings, seed=seed, device=str(kwargs.get("device", "cpu")), out=out
    )
    run = Run.begin(
        out,
        settings={
            "env": env_id,
            "env_kwargs": deciding,
            "backbone": env.envs.backbone.to_json(),
            "algorithm": learner,
            "seed": seed,
            "hyperparameters": {
                key: value for key, value in settings.items() if key not in ("timesteps", "env")
            },
        },
        resume=resume,
        device=str(kwargs.get("device", "cpu")),
        progress=progress,
    )
    if run.restored is not None and "learner" in run.restored:
        trained.load_state_dict(run.restored["learner"])
    run.trim_curve(trained.timesteps)
    try:
        trained.learn(settings["timesteps"], run)
        run.save(trained)
    finally:
        env.close()
    return out


def _settings(
    usual: dict[str, Any],
    changes: dict[str, Any],
    *,
    timesteps: int | None,
    warm_start: int | None,
) -> dict[str, Any]:
    """The usual hyperparameters with these changes."""
    settings = changed(usual, changes)
    if timesteps is not None:
        settings["timesteps"] = timesteps
    section = settings.get("warm_start")
    if warm_start is not None:
        if section is None and warm_start:
            raise ValueError(
                "The hyperparameters have no section 'warm_start'; leave --warm-start out."
            )
        if section is not None:
            settings["warm_start"] = {**section, "glimpses": warm_start}
    elif section and timesteps is not None and "glimpses" not in changes.get("warm_start", {}):
        share = min(1.0, timesteps / usual["timesteps"])
        settings["warm_start"] = {**section, "glimpses": round(section["glimpses"] * share)}
    return settings
