"""PyTorch as this package expects it, whatever the program around it has set.

Default dtype, default device, autocast and gradient modes are settings of the whole program. None
of them changes what environments compute.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def plain_torch(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function run without gradients, autocast, inference mode and changed defaults.

    Without gradients, and yet not in inference mode: what the function returns can be learned from.
    """

    @wraps(function)
    def isolated(*args: P.args, **kwargs: P.kwargs) -> T:
        if _is_plain():
            with torch.no_grad():
                return function(*args, **kwargs)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            for kind in ("cpu", "cuda"):
                stack.enter_context(torch.autocast(kind, enabled=False))
            if _default_device() != "cpu":
                stack.enter_context(torch.device("cpu"))
            dtype = torch.get_default_dtype()
            if dtype != torch.float32:
                stack.callback(torch.set_default_dtype, dtype)
                torch.set_default_dtype(torch.float32)
            return function(*args, **kwargs)

    return isolated


def _is_plain() -> bool:
    return not (
        torch.is_inference_mode_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or torch.get_default_dtype() != torch.float32
        or _default_device() != "cpu"
    )


def _default_device() -> str:
    """The type of the device on which tensors are made where nobody says."""
    try:
        return torch.get_default_device().type
    except AttributeError:  # torch 2.9, once the default was set and then set back to None
        return "cpu"


def _after_fork() -> None:
    # OpenMP's threads are not copied, and a process that waits for them waits for ever. One thread
    # needs none of them.
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
