"""How fast CanViT is distilled: `python -m canvit_gym.bench.training`.

One update of our trainer and one of the reference's (canvit-pytorch) take turns within one run, on
the same weights, scenes and teacher features, with one chunk of glimpses in each of two rollouts:
forward, losses, backward, clipping, AdamW. The ratio is the median over rounds of one round's
times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from canvit_gym.bench.machine import add_arguments, described, machine, write
from canvit_gym.bench.model import REFERENCE, reference_config, reference_version, take_turns
from canvit_gym.geometry import MINI_GLIMPSE, OFFICIAL_GLIMPSE, GlimpseSpec
from canvit_gym.model.config import CanViTConfig
from canvit_gym.preprocess import normalize
from canvit_gym.training.batches import DistillationBatch
from canvit_gym.training.common import compile_core
from canvit_gym.training.distill import Distillation, DistillationObjective
from canvit_gym.training.loop import peaks_of, update
from canvit_gym.training.mini import MINI_CONFIG

OURS, COMPILED = "canvit-gym", "canvit-gym compiled"
TEACHER_DIM = {"mini": 1280, "CanViT-S": 384, "CanViT-B": 768}
MODELS: dict[str, tuple[CanViTConfig, GlimpseSpec, int]] = {
    "mini": (MINI_CONFIG, MINI_GLIMPSE, 128),
    "CanViT-S": (CanViTConfig(backbone_name="vits16"), OFFICIAL_GLIMPSE, 512),
    "CanViT-B": (CanViTConfig(), OFFICIAL_GLIMPSE, 512),
}
"""Architecture, glimpses and side of the scenes in pixels."""

_ROW = "{model:9} {batch_size:5}  {variant:20} {glimpses_per_second:10.1f} {ratio:6.2f}"
_HEADER = f"{'model':9} {'batch':>5}  {'variant':20} {'glimpses/s':>10} {'ratio':>6}"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting that is timed: one of MODELS, and how many scenes an update has."""

    model: str
    batch_size: int
    precision: str

    @property
    def run(self) -> Distillation:
        config, glimpse, size = MODELS[self.model]
        return Distillation(
            model=config,
            scenes_per_step=self.batch_size,
            scene_size_px=size,
            picture_size_px=size,
            glimpse_size_px=glimpse.glimpse_size_px,
            canvas_grid_size=glimpse.canvas_grid_size,
            stop_probability=1.0,  # one chunk, so that all updates are of one length
            precision=self.precision,  # type: ignore[arg-type]
        )

    @property
    def glimpses(self) -> int:
        """How many an update takes in."""
        return self.batch_size * self.run.chunk_glimpses * len(self.run.rollouts)

    def batch(self) -> DistillationBatch:
        """Scenes and features of noise, whose values change no time."""
        generator = torch.Generator().manual_seed(0)
        side, grid = self.run.picture_size_px, self.run.canvas_grid_size
        shape, dim = (self.batch_size, side, side, 3), TEACHER_DIM[self.model]
        return DistillationBatch(
            pictures=torch.randint(256, shape, generator=generator, dtype=torch.uint8),
            labels=torch.full((self.batch_size,), -1),
            patches=torch.randn(self.batch_size, grid**2, dim, generator=generator),
            cls=torch.randn(self.batch_size, dim, generator=generator),
        )


def our_update(setting: Setting, *, device: str, compiled: bool) -> Callable[[], Tensor]:
    """One update of ours on the same batch, again and again; returns its loss."""
    torch.manual_seed(0)
    objective = DistillationObjective(
        setting.run, teacher_dim=TEACHER_DIM[setting.model], device=device
    )
    batch, steps = setting.batch(), iter(range(10**9))
    objective.fit_standardizers([batch])
    if compiled:
        compile_core(objective.kept.canvit)
    peaks = peaks_of(objective)
    return lambda: update(objective, batch, step=next(steps), peaks=peaks)["loss"]


def reference_update(setting: Setting, *, device: str) -> Callable[[], Tensor]:
    """The same of the reference's trainer."""
    from canvit_pytorch import CanViTForPretraining
    from canvit_pytorch.pretrain.loss import DistillationTargets
    from canvit_pytorch.pretrain.schedule import warmup_then_constant
    from canvit_pytorch.pretrain.step import training_step

    run, batch = setting.run, setting.batch()
    torch.manual_seed(0)
    model = CanViTForPretraining(
        canvit_config=reference_config(run.model),
        teacher_dim=TEACHER_DIM[setting.model],
        teacher_patch_grid=run.canvas_grid_size,
    ).to(device)
    assert batch.patches is not None and batch.cls is not None
    model.teacher_patch_standardizer.fit(batch.patches.to(device))
    model.teacher_cls_standardizer.fit(batch.cls[:, None].to(device))
    parameters = list(model.parameters())
    adam = torch.optim.AdamW(parameters, lr=run.lr, weight_decay=run.weight_decay)
    schedule = warmup_then_constant(
        adam, start_lr=run.start_lr, peak_lr=run.lr, warmup_steps=run.warmup_steps
    )
    is_half = run.precision == "bfloat16"
    autocast: Any = torch.autocast(device, torch.bfloat16) if is_half else nullcontext()
    images = normalize(batch.pictures).to(device)  # of which its own loader takes care

    def step() -> Tensor:
        assert batch.patches is not None and batch.cls is not None
        targets = DistillationTargets.standardize(
            model, patches=batch.patches.to(device), cls=batch.cls.to(device)
        )
        adam.zero_grad()
        metrics = training_step(
            model=model,
            images=images,
            targets=targets,
            rollout_policies=("full_then_random", "random"),
            tbptt_chunk_glimpses=run.chunk_glimpses,
            stop_probability=1.0,
            glimpse_size_px=run.glimpse_size_px,
            canvas_grid_size=run.canvas_grid_size,
            enable_teacher_patch_loss=True,
            enable_teacher_cls_loss=True,
            autocast=autocast,
        )
        torch.nn.utils.clip_grad_norm_(parameters, run.clip_norm)
        adam.step()
        schedule.step()
        return metrics.loss

    return step


def measure(
    setting: Setting, variants: Sequence[str], *, device: str, rounds: int, block_seconds: float
) -> list[dict[str, Any]]:
    """One record a variant; ratio: how much faster than the first."""
    calls: dict[str, Callable[[], Tensor]] = {}
    for variant in variants:
        if variant == REFERENCE:
            calls[variant] = reference_update(setting, device=device)
        else:
            calls[variant] = our_update(setting, device=device, compiled=variant == COMPILED)
    timed = {name: _finished(call) for name, call in calls.items()}
    seconds = take_turns(timed, rounds=rounds, block_seconds=block_seconds, clock=time.perf_counter)
    first = seconds[variants[0]]
    return [
        asdict(setting)
        | {
            "variant": variant,
            "glimpses_per_second": setting.glimpses / median(seconds[variant]),
            "ratio": median(a / b for a, b in zip(first, seconds[variant], strict=True)),
            "seconds": seconds[variant],
        }
        for variant in variants
    ]


def _finished(call: Callable[[], Tensor]) -> Callable[[], float]:
    return lambda: float(call())  # which waits for the device


def format_table(figures: dict[str, Any]) -> str:
    lines = [described(figures), _HEADER]
    return "\n".join(lines + [_ROW.format(**record) for record in figures["results"]])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.bench.training", description=__doc__.partition("\n")[0]
    )
    add_arguments(parser)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=["mini", "CanViT-S"])
    parser.add_argument("--batch", type=int, help="scenes of an update (mini 64, others 4)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each one in each round")
    parser.add_argument("--compile", action="store_true", help="our compiled core, too")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    variants = [REFERENCE] if reference_version() else []
    variants += [OURS, COMPILED] if args.compile else [OURS]
    figures = machine(device=args.device, precision=args.precision)
    figures["results"] = []
    print(described(figures), _HEADER, sep="\n")
    for model in args.models:
        setting = Setting(
            model=model,
            batch_size=args.batch or (64 if model == "mini" else 4),
            precision=args.precision,
        )
        for record in measure(
            setting,
            variants,
            device=args.device,
            rounds=args.rounds,
            block_seconds=args.seconds,
        ):
            print(_ROW.format(**record), flush=True)
            figures["results"].append(record)
    if args.out is not None:
        write(figures, args.out)


if __name__ == "__main__":
    main()
