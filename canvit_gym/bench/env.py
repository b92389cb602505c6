"""How fast environments step, and where the time goes: `python -m canvit_gym.bench.env`.

Glimpses a second are those of Gymnasium's `benchmark_vector_step`: random actions, new scenes
included. A stopwatch around the parts of a step then runs on other steps of the same environment,
in turns. CanViT-B has random weights and looks at generated photographs, each of which is decoded
anew; what a step costs depends on neither.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import torch
from PIL import Image

import canvit_gym  # noqa: F401  (registers the ids)
from canvit_gym.bench.machine import add_arguments, described, machine, write
from canvit_gym.envs import rollout as rollout_module
from canvit_gym.envs.rollout import Rollout
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.scenes.imagenet import WNIDS
from canvit_gym.scenes.prefetch import SceneQueue

MODELS = ("mini", "CanViT-B")

PARTS = {
    "forward": "the model's core",
    "readout": "the model's head",
    "judging": "the belief, its potentials and outcome",
    "sampling": "glimpses out of pictures",
    "observation": "of canvas, CLS and history",
    "scenes": "asking for new ones, waiting, stacking, normalising",
    "rest": "actions, rewards, infos, numpy",
}
MODEL_PARTS = ("forward", "readout")
"""The rest is what the environment adds."""

_LEAST_EPISODES = 10  # in a measurement, so that each has its share of new scenes
_WARM_EPISODES = {"mini": 32, "CanViT-B": 1}
"""Generated scenes are drawn from sprites that are scaled once and then kept."""

_CANVAS_GRID = {"mini": 8, "CanViT-B": 32}
_PICTURES, _PICTURE_SIZE = 64, (500, 375)

_FIRST_OBSERVATION = """
import gymnasium
gymnasium.make("canvit_gym:CanViT-Emoji-v0").reset(seed=0)
"""


class Stopwatch:
    """Adds up seconds by part. While a part runs within another, the other one's time stands
    still, so the parts add up to the time of the outermost."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._running: list[float] = []  # of each part under way, the seconds of those within it

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._running.append(0.0)
            started = self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = self._clock() - started
                within = self._running.pop()
                self.seconds[part] = self.seconds.get(part, 0.0) + elapsed - within
                if self._running:
                    self._running[-1] += elapsed

        return call

    @contextmanager
    def around(self, envs: CanViTVectorEnv) -> Iterator[Callable[[Any], Any]]:
        """The environment's `step` with every part of it timed."""
        task = envs.rollout.task
        places: list[tuple[str, Any, str]] = [
            ("forward", type(task.model), "take_in"),
            ("readout", type(task.model), "logits"),
            ("judging", type(task), "belief"),
            ("judging", type(task), "judge"),
            ("sampling", rollout_module, "sample_at_viewpoint"),
            ("observation", type(envs.observations), "observe"),
            ("scenes", SceneQueue, "take"),
            ("scenes", SceneQueue, "draw_ahead"),
            ("scenes", Rollout, "start"),
        ]
        with ExitStack() as stack:
            for part, owner, name in places:
                timed = self.timed(part, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, timed))
            yield self.timed("rest", envs.step)


def clock_of(device: str) -> Callable[[], float]:
    """Seconds, when everything that was asked of the device is done."""
    if device == "cpu":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


# --- What steps ----------------------------------------------------------------------------------


@contextmanager
def environment(model: str, *, num_envs: int, **kwargs: Any) -> Iterator[CanViTVectorEnv]:
    """A vector environment on one of MODELS; `kwargs` are its keyword arguments."""
    with ExitStack() as stack:
        env_id = "CanViT-Emoji-v0"
        if model == "CanViT-B":
            env_id = "CanViT-IN1k-v0"
            folder = Path(stack.enter_context(TemporaryDirectory()))
            write_checkpoint(folder / "checkpoint")
            write_pictures(folder / "pictures")
            kwargs |= {
                "backbone": str(folder / "checkpoint"),
                "scenes": str(folder / "pictures"),
                "canvas_grid_size": _CANVAS_GRID[model],
            }
        envs: Any = gym.make_vec(
            env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs
        )
        stack.callback(envs.close)
        yield envs


def write_checkpoint(folder: Path) -> None:
    """A CanViT-B of 1,000 classes with random weights, in the published format."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CanViTForImageClassification(canvit_config=CanViTConfig(), n_classes=len(WNIDS))
    model.save_pretrained(folder)


def write_pictures(folder: Path) -> None:
    """JPEGs of an ImageNet photograph's size and detail, one in a class folder."""
    rng = np.random.default_rng(0)
    width, height = _PICTURE_SIZE
    for number in range(_PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(_PICTURE_SIZE, Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + rng.integers(-12, 13, (height, width, 3), dtype=np.int16)
        path = folder / WNIDS[number] / f"{number}.JPEG"
        path.parent.mkdir(parents=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


# --- Measuring -----------------------------------------------------------------------------------


def measure(
    envs: CanViTVectorEnv, *, model: str, rounds: int, seconds: float, device: str
) -> dict[str, Any]:
    """Random actions in rounds, of which those in the middle count.

    glimpses_per_second; rounds: the same of each. step_ms and split_ms: a step with the stopwatch,
    whole and by part. overhead_share: of it, what is not the model's.
    """
    try:
        from gymnasium.utils.performance import benchmark_vector_step
    except ImportError as error:
        raise ImportError("This benchmark needs gymnasium 1.4 or newer; update it.") from error

    envs.reset(seed=0)
    envs.action_space.seed(0)
    clock, budget = clock_of(device), envs.rollout.budget

    def episodes(step: Callable[[Any], Any], *, least: int, seconds: float) -> int:
        """Steps taken: whole episodes, at least so many, and for at least so long."""
        steps, started = 0, clock()
        while steps % budget or steps < least * budget or clock() - started < seconds:
            step(envs.action_space.sample())
            steps += 1
        return steps

    started = clock()
    steps = episodes(envs.step, least=_WARM_EPISODES[model], seconds=0)
    duration = math.ceil(max(seconds, _LEAST_EPISODES * budget * (clock() - started) / steps))
    rates, splits = [], []
    for number in range(rounds):
        rates.append(benchmark_vector_step(envs, target_duration=duration, seed=number))
        envs.reset(seed=number)
        stopwatch = Stopwatch(clock)
        with stopwatch.around(envs) as step:
            steps = episodes(step, least=1, seconds=duration)
        splits.append({part: 1e3 * stopwatch.seconds[part] / steps for part in PARTS})
    split = sorted(splits, key=overhead_share)[rounds // 2]
    return {
        "model": model,
        "canvas_grid": _CANVAS_GRID[model],
        "num_envs": envs.num_envs,
        "glimpses_per_second": median(rates),
        "overhead_share": overhead_share(split),
        "step_ms": sum(split.values()),
        "split_ms": split,
        "rounds": rates,
    }


def overhead_share(split: dict[str, float]) -> float:
    """Times of a step split into PARTS."""
    return 1 - sum(split[part] for part in MODEL_PARTS) / sum(split.values())


def measure_first_observation(*, repeats: int) -> float:
    """Median seconds from starting an interpreter to the first observation of CanViT-Emoji-v0."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", _FIRST_OBSERVATION], check=True)
        times.append(time.perf_counter() - started)
    return median(times)


# --- Command line --------------------------------------------------------------------------------


def format_table(figures: dict[str, Any]) -> str:
    """One column an environment: its rate, and what each part of a step takes."""
    results = figures["results"]
    names = [f"{r['model']}, canvas {r['canvas_grid']}, {r['num_envs']} envs" for r in results]

    def line(title: str, cells: list[str], note: str = "") -> str:
        columns = (f"{cell:>{len(name)}}" for cell, name in zip(cells, names, strict=True))
        return "   ".join((f"{title:21}", *columns, note)).rstrip()

    def share(record: dict[str, Any], *parts: str) -> str:
        return f"{sum(record['split_ms'][part] for part in parts) / record['step_ms']:.1%}"

    lines = [
        f"{described(figures)}: steps of a vector environment",
        "",
        line("", names),
        line("glimpses/s", [f"{r['glimpses_per_second']:.1f}" for r in results]),
        line("what the env adds", [f"{r['overhead_share']:.1%}" for r in results]),
        "",
        line("a step", [f"{r['step_ms']:.1f} ms" for r in results]),
        *(
            line(f"  {part}", [share(r, part) for r in results], what)
            for part, what in PARTS.items()
        ),
        "",
        "from a fresh interpreter to the first observation of CanViT-Emoji-v0: "
        f"{figures['first_observation_seconds']:.1f} s",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.bench.env", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--num-envs", type=int, help="instead of the usual")
    parser.add_argument("--draw-ahead", type=int, default=1, help="threads that make scenes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="least length of a measurement")
    add_arguments(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())

    figures = machine(device=args.device, precision=args.precision)
    figures |= {"draw_ahead": args.draw_ahead, "results": []}
    figures["first_observation_seconds"] = measure_first_observation(repeats=3)
    usual = {"mini": 64, "CanViT-B": 8 if args.device == "cpu" else 64}
    for model in args.models:
        settings: dict[str, Any] = {"draw_ahead": args.draw_ahead, "precision": args.precision}
        if model == "CanViT-B":
            settings["cache_bytes"] = 0  # every picture is decoded
        num_envs = args.num_envs or usual[model]
        with environment(model, num_envs=num_envs, device=args.device, **settings) as envs:
            record = measure(
                envs, model=model, rounds=args.rounds, seconds=args.seconds, device=args.device
            )
        figures["results"].append(record)
    print(format_table(figures))
    if args.out:
        write(figures, args.out)


if __name__ == "__main__":
    main()
