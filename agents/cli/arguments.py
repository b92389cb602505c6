"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EMOJI = "CanViT-Emoji-v0"
"""The id that examples and the demo use."""

_SCENES = 200


def add_environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", required=True, metavar="ID", help=f"such as {EMOJI}")
    parser.add_argument(
        "--budget", type=positive, help="glimpses to choose (default: the environment's)"
    )
    parser.add_argument(
        "--scenes-root",
        metavar="PATH",
        help="folder of pictures, for CanViT-IN1k-v0 and CanViT-ADE20K-v0",
    )
    parser.add_argument("--device", help="such as cuda (default: cpu)")
    parser.add_argument(
        "--env-kwargs",
        nargs="+",
        default=[],
        type=key_value,
        metavar="KEY=VALUE",
        help="further keyword arguments of the environment",
    )


def add_judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scenes",
        type=number_of_scenes,
        metavar="N",
        help=f"how many, or all (default: {_SCENES}, or all where there are fewer)",
    )
    add_split(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory for summary.json, manifest.json and what each policy saw; what is finished "
        "there is not played again",
    )
    parser.add_argument("--seed", type=at_least_0, default=0)


def add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split", default="test", help="which scenes, such as test_style (default: %(default)s)"
    )


def environment_kwargs(args: argparse.Namespace) -> dict[str, Any]:
    given = {
        "budget": args.budget,
        "scenes": args.scenes_root,
        "device": args.device,
        "action": getattr(args, "action", None),
    }
    return {
        **{key: value for key, value in given.items() if value is not None},
        **dict(args.env_kwargs),
    }


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def at_least_0(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return number


def port(text: str) -> int:
    number = at_least_0(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text} is more than 65535")
    return number


def number_of_scenes(text: str) -> int | str:
    return text if text == "all" else positive(text)


def count_scenes(asked: int | str | None, available: int) -> int:
    """How many scenes are meant."""
    if asked is None:
        return min(_SCENES, available)
    return available if isinstance(asked, str) else asked


def key_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key.isidentifier() or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    if value in ("true", "false"):
        return key, value == "true"
    try:
        return key, literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a plain word


def dotted_value(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or len(parts) > 2 or not all(part.isidentifier() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is neither KEY=VALUE nor SECTION.KEY=VALUE")
    return parts, key_value(f"value={value}")[1]


def nested(settings: Sequence[tuple[list[str], Any]]) -> dict[str, Any]:
    """Single hyperparameters as `train` takes them, those of a section in a dict."""
    nested: dict[str, Any] = {}
    for (first, *rest), value in settings:
        if rest:
            nested.setdefault(first, {})[rest[0]] = value
        else:
            nested[first] = value
    return nested
