"""The keyword arguments of environments: one list, for `gym.make`, `gym.make_vec`, adapters and the
command line.

An option marked `Runtime` says how an environment runs. Every other one decides what comes out, and
so is recorded beside results and policies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypedDict, get_args, get_type_hints

from gymnasium.vector import AutoresetMode

from canvit_gym.envs.actions import ActionKind, require_scales
from canvit_gym.envs.observations import ObservationKind
from canvit_gym.envs.rollout import InitialGlimpse, Precision, require_budget
from canvit_gym.errors import (
    UnexpectedKeyword,
    require_bool,
    require_choice,
    require_device,
    require_int,
    require_number,
)
from canvit_gym.files import plain_json
from canvit_gym.scenes.base import Scenes

Output = Literal["numpy", "torch"]

ScenesOption = str | os.PathLike[str] | Scenes | Mapping[str, Scenes]
"""A folder; scenes in memory; or such scenes by split, as {"train": ..., "test": ...}."""

ModelOption = Any
"""The name of a checkpoint, its directory, or a model in memory."""

Runtime = "runtime"
"""Marks an option that changes how an environment runs and not what comes out."""

MAX_CANVAS_GRID, MAX_SCENE_PX, MAX_THREADS = 256, 4096, 256


class EnvOptions(TypedDict, total=False):
    """The keyword arguments that every id takes.

    scenes: a folder or tar file, an object that fulfils `Scenes`, or a dict of such objects by
        split. Pictures decide results, so evaluations record them one by one, and not where they
        lie.
    split: which scenes, such as "train" or "test".
    backbone: a checkpoint's name or directory, or a model in memory. probe: likewise, of a probe:
        of the canvas where places are labelled; of the teacher's features, to be fused into a
        pretrained backbone, where scenes are named.
    budget: glimpses to choose, 1 to 100,000. initial_glimpse: "full_scene", or None to start blind.
    precision: "float32" or "bfloat16", of the model.
    action: "box", "cell" or "tile". cell_scales: of "cell", in (0, 1]. stop_action: whether an
        action ends the episode.
    observation: "compact" or "full".
    reward: the potential whose gain is paid, by name; None for the task's first. glimpse_cost:
        taken from the reward of each chosen glimpse, at least 0.
    device: "cpu", "cuda", "cuda:0" or "mps".
    output: "numpy", or "torch" to leave observations and rewards on the device.
    draw_ahead: threads that make the next scenes while the model runs; None for one, or for none
        where there is one scene.
    render_mode: "rgb_array" or None; `gym.make` takes "rgb_array_list" and "human", too.
    autoreset_mode: of vector environments: "SAME_STEP", "NEXT_STEP" or "DISABLED".
    """

    scenes: Annotated[ScenesOption | None, Runtime]
    split: str
    backbone: ModelOption
    probe: ModelOption
    budget: int
    initial_glimpse: InitialGlimpse
    precision: Precision
    action: ActionKind
    cell_scales: Sequence[float]
    stop_action: bool
    observation: ObservationKind
    reward: str | None
    glimpse_cost: float
    device: Annotated[str, Runtime]
    output: Annotated[Output, Runtime]
    draw_ahead: Annotated[int | None, Runtime]
    render_mode: Annotated[str | None, Runtime]
    autoreset_mode: Annotated[Any, Runtime]


class FolderOptions(EnvOptions, total=False):
    """Those of ids whose pictures come from a folder.

    scene_size_px: side of the pictures, 1 to 4,096. canvas_grid_size: cells on a side of the
        canvas, 1 to 256. cache_bytes: of decoded pictures that are kept; 0 decodes each anew.
    """

    scene_size_px: int
    canvas_grid_size: int
    cache_bytes: Annotated[int, Runtime]


class ImageNetOptions(FolderOptions, total=False):
    """Those of ids whose pictures are of ImageNet's classes. Their scenes may be "imagenette" or
    "album", their backbone "auto" (the official one where it can be had, else the embedded mini) or
    "official"; sizes are the checkpoint's unless given.

    upright: whether EXIF orientation is applied, which the published evaluation does not."""

    upright: bool


class PlacesOptions(EnvOptions, total=False):
    """Those of ids where something is said of every place.

    label_size_px: side at which that is compared with the truth.
    """

    label_size_px: int


class ADE20KOptions(FolderOptions, PlacesOptions, total=False):
    """fit: "squish" or "crop", how a picture becomes square."""

    fit: Literal["squish", "crop"]


class AllOptions(ImageNetOptions, ADE20KOptions, total=False):
    """Every keyword argument of some id."""


RUNTIME = frozenset(
    name
    for name, hint in get_type_hints(AllOptions, include_extras=True).items()
    if Runtime in getattr(hint, "__metadata__", ())
)
"""Names of the options that change how an environment runs and not what comes out."""


def names(options: Any) -> frozenset[str]:
    """The names that a class of options has."""
    return frozenset(options.__annotations__)


def require_known(given: Mapping[str, Any], accepted: frozenset[str], *, env: str) -> None:
    """Raise UnexpectedKeyword where an option is not accepted."""
    if unknown := sorted(set(given) - accepted):
        raise UnexpectedKeyword(
            f"{env} got an unexpected keyword argument {unknown[0]!r}; it accepts "
            f"{', '.join(sorted(accepted))}."
        )


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with numpy's numbers as Python's.

    Raises ValueError for values that are not accepted, before anything is loaded. What depends on
    the scenes or on the task, such as `split` and `reward`, they check themselves.
    """
    return {
        name: _CHECKS[name](value) if name in _CHECKS else value for name, value in options.items()
    }


def recorded(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide what comes out, as plain JSON; models in memory by their hash.

    Raises ValueError for values that JSON has no form for.
    """
    from torch import nn

    from canvit_gym.model.identity import identify_model

    deciding = {name: value for name, value in options.items() if name not in RUNTIME}
    for name, value in deciding.items():
        if isinstance(value, nn.Module):
            deciding[name] = identify_model(value).name
    values: dict[str, Any] = plain_json(deciding, name="the environment's keyword arguments")
    return values


def autoreset_mode(value: Any) -> AutoresetMode:
    """The mode by name; raises ValueError for another name."""
    if isinstance(value, AutoresetMode):
        return value
    accepted = {mode.name: mode for mode in AutoresetMode}
    require_choice("autoreset_mode", value, accepted)
    return accepted[value]


def _choice(name: str, choices: Any) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        require_choice(name, value, get_args(choices))
        return value

    return check


def _initial_glimpse(value: Any) -> Any:
    if value is not None:
        require_choice("initial_glimpse", value, ("full_scene",))
    return value


def _device(value: Any) -> str:
    return str(require_device(value))


def _draw_ahead(value: Any) -> int | None:
    if value is None:
        return None
    return require_int("draw_ahead", value, at_least=0, at_most=MAX_THREADS, what="threads")


def require_cost(value: Any) -> float:
    """A price of a glimpse; raises ValueError for anything but a number of at least 0."""
    what = "what a glimpse costs in units of the reward"
    return require_number("glimpse_cost", value, at_least=0, what=what)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "budget": require_budget,
    "initial_glimpse": _initial_glimpse,
    "precision": _choice("precision", Precision),
    "action": _choice("action", ActionKind),
    "cell_scales": require_scales,
    "stop_action": partial(require_bool, "stop_action"),
    "observation": _choice("observation", ObservationKind),
    "glimpse_cost": require_cost,
    "device": _device,
    "output": _choice("output", Output),
    "draw_ahead": _draw_ahead,
    "autoreset_mode": autoreset_mode,
    "scene_size_px": partial(require_int, "scene_size_px", at_least=1, at_most=MAX_SCENE_PX),
    "canvas_grid_size": partial(
        require_int, "canvas_grid_size", at_least=1, at_most=MAX_CANVAS_GRID, what="cells a side"
    ),
    "cache_bytes": partial(
        require_int, "cache_bytes", at_least=0,
        what="how many bytes of decoded pictures to keep, or 0 to decode each anew",
    ),
    "label_size_px": partial(
        require_int, "label_size_px", at_least=1, at_most=MAX_SCENE_PX,
        what="the side at which masks are compared",
    ),
    "upright": partial(require_bool, "upright"),
}  # fmt: skip
