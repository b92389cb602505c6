"""Train a probe of a frozen CanViT's canvas: `canvit-gym probe --preset ours` or `mini`.

A probe reads classes, or depths, from the canvas. Whatever the backbone (flagship, mini, a
directory), each step shows it fresh random rollouts and fits the probe to the canvas after every
glimpse: the recipe of the published probes, or one that is made to fit the mini.
Scenes are those that backbones and probes train on, policies never: the "backbone" split of
EmojiScenes, or the training pictures of a folder. The probe of the best validation is kept.

A run saves as it goes and continues where it stopped; scenes, augmentation, viewpoints and dropout
are functions of (seed, step), so a continued run sees what an unbroken one would have seen.
`python -m canvit_gym.training.probe` measures a probe.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from canvit_gym.envs.rollout import Precision, Rollout
from canvit_gym.errors import require_choice
from canvit_gym.geometry import (
    OFFICIAL_GLIMPSE,
    GlimpseSpec,
    Viewpoint,
    grid_centers,
    random_viewpoint,
    sample_at_viewpoint,
)
from canvit_gym.model.canvas_probe import CanvasProbe
from canvit_gym.model.canvit import Core
from canvit_gym.model.checkpoints import checkpoint_sha256, load_model
from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining
from canvit_gym.preprocess import IMAGENET_MEAN, decode, normalize, open_picture, to_rgb
from canvit_gym.scenes.ade20k import ADE20KScenes
from canvit_gym.scenes.base import IGNORE, Scene, Scenes
from canvit_gym.scenes.emoji import EMOJI
from canvit_gym.tasks.depth.probing import DepthProbing
from canvit_gym.tasks.probing import Probing
from canvit_gym.tasks.segmentation.probing import SegmentationProbing
from canvit_gym.training.common import EpochOrder, generator_for, grid_values, seed_for
from canvit_gym.training.loop import Figures, Finished, Loop, Pace
from canvit_gym.training.schedules import half_cosine, warmup
from canvit_gym.training.settings import load_preset, make_run

KINDS: dict[str, Probing] = {"segmentation": SegmentationProbing(), "depth": DepthProbing()}
"""The tasks that probes are trained for, by name."""

SAVE_EVERY = 100
"""Steps between snapshots of a run."""

_SCALE_JITTER = (0.5, 2.0)
_REDRAWN = 10
"""How often a crop that one class fills is drawn again at most."""
_FILLS = 0.75
"""Share of the labelled pixels from which on a class fills a crop."""
_TILES = 4


@dataclass(frozen=True, kw_only=True)
class ProbeTraining:
    """One training run; everything that decides its outcome but backbone and scenes.

    The defaults are the official recipe; where the published notes leave something open, or this
    differs from them, the field says so. Raises ValueError where a number makes no sense.
    """

    task: str = "segmentation"
    """One of KINDS: what the probe reads."""
    steps: int = 40_000
    scenes_per_step: int = 16
    num_glimpses: int = 10
    """Glimpses of each rollout; the loss is averaged over the canvases after all of them."""
    full_scene_share: float = 0.0
    """Share of the rollouts that begin with the full scene; all other glimpses are R-IID."""
    lr: float = 3e-4
    """Peak: it rises linearly from a millionth of itself, then falls to zero along a cosine."""
    weight_decay: float = 1e-3
    warmup_steps: int = 1500
    dropout: float = 0.1
    scene_size_px: int = 512
    glimpse_size_px: int = OFFICIAL_GLIMPSE.glimpse_size_px
    canvas_grid_size: int = OFFICIAL_GLIMPSE.canvas_grid_size
    """Probes are published for each size; the environments take 64, the paper mostly 32."""
    min_scale: float = OFFICIAL_GLIMPSE.min_scale
    label_size_px: int = 512
    """Side at which validation and evaluation compare with masks; training does on the canvas."""
    precision: Precision = "bfloat16"
    """Precision of the backbone; the canvas and the probe are float32 in any case."""
    validate_every: int = 500
    validation_scenes: int = 500
    """Never trained on. Of a folder they are taken from its training pictures, at random: the
    published probes were chosen by the validation pictures, on which we judge policies."""
    first_scene: int = 0
    """Index of the first generated scene; of folders all training pictures are taken."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, get_args(Precision))
        require_choice("task", self.task, KINDS)
        positive = (
            "steps", "scenes_per_step", "num_glimpses", "scene_size_px", "glimpse_size_px",
            "canvas_grid_size", "label_size_px", "validate_every", "validation_scenes",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1.")
        for name, low in (("min_scale", 0.001), ("full_scene_share", 0.0)):
            if not low <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give {low} to 1.")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} and steps {self.steps}; give 0 or more, and "
                "fewer than steps."
            )

    @property
    def kind(self) -> Probing:
        return KINDS[self.task]

    @property
    def glimpse(self) -> GlimpseSpec:
        return GlimpseSpec(
            glimpse_size_px=self.glimpse_size_px,
            canvas_grid_size=self.canvas_grid_size,
            min_scale=self.min_scale,
        )


def preset(name: str) -> ProbeTraining:
    """The run that a preset of ours describes."""
    settings = load_preset(name, command="probe")
    settings.pop("recipe")
    return make_run(ProbeTraining, settings)


# -- scenes ---------------------------------------------------------------------------------------


class AugmentedADE20K(ADE20KScenes):
    """ADE20K's training pictures, each drawn anew whenever it is asked for.

    DINOv3's augmentation with torchvision's means: the short side scaled to `size_px` times 0.5 to
    2, a random crop (what is missing is the mean colour and ignored), a flip, and SSD's photometric
    distortion with DINOv3's full range of hues, which in torchvision also permutes channels. Crops
    that one class fills are drawn again where `redraw` says so, as DINOv3 does. Draws from torch's
    global generator.
    """

    def __init__(self, root: str | Path, *, size_px: int, redraw: bool = False) -> None:
        super().__init__(root, split="train", size_px=size_px)
        low, high = (int(factor * size_px) for factor in _SCALE_JITTER)
        mean = tuple(round(255 * value) for value in IMAGENET_MEAN)
        self.resize = v2.RandomResize(min_size=low, max_size=high + 1)
        self.crop = v2.RandomCrop(
            size_px,
            pad_if_needed=True,
            fill={tv_tensors.Image: mean, tv_tensors.Mask: IGNORE},
        )
        self.distort = v2.Compose(
            [v2.RandomHorizontalFlip(0.5), v2.RandomPhotometricDistort(hue=(-0.5, 0.5))]
        )
        self.crops = 1 + (_REDRAWN if redraw else 0)

    def _read(self, index: int) -> Scene:
        with open_picture(self.root / self.names[index]) as image:
            picture = v2.functional.to_image(to_rgb(image))
        with open_picture(self.root / self.mask_names[index]) as image:
            decode(image)
            values = np.array(image)
        if values.max() > len(self.mask_class_names):
            super()._read(index)  # which says what is wrong
        mask = tv_tensors.Mask(torch.from_numpy(values - np.uint8(1)))  # 0 becomes 255: IGNORE
        picture, mask = self.resize(picture, mask)
        for _ in range(self.crops):
            cropped = self.crop(picture, mask)
            if not is_of_one_class(cropped[1]):
                break
        picture, mask = self.distort(*cropped)
        return Scene(
            name=self.names[index],
            picture=picture.permute(1, 2, 0).numpy(),
            label=-1,
            mask=mask.numpy(),
            target=None,
        )


def is_of_one_class(mask: Tensor) -> bool:
    """Whether one class has most of the labelled pixels of a mask uint8 [H, W], or all."""
    counts = torch.bincount(mask[mask != IGNORE].flatten(), minlength=1)
    return int((counts > 0).sum()) < 2 or float(counts.max() / counts.sum()) >= _FILLS


class ProbeScenes(NamedTuple):
    """training[i] for i in training_indices is trained on, validation[i] for i in
    validation_indices chooses the probe; no picture is in both."""

    training: Scenes
    training_indices: Sequence[int]
    validation: Scenes
    validation_indices: Sequence[int]


def training_scenes(name: str, run: ProbeTraining) -> ProbeScenes:
    """The scenes of a run, by name: "emoji", or a folder.

    Generated scenes are fresh in every step and need no augmentation.
    """
    if name == EMOJI:
        emoji = open_scenes(name, split="backbone", run=run)
        end = run.first_scene + run.steps * run.scenes_per_step
        return ProbeScenes(
            training=emoji,
            training_indices=range(run.first_scene, end),
            validation=emoji,
            validation_indices=range(end, end + run.validation_scenes),
        )
    plain = open_scenes(name, split="train", run=run)
    if len(plain) <= run.validation_scenes:
        raise ValueError(
            f"{name} has {len(plain)} training pictures, but validation_scenes is "
            f"{run.validation_scenes}; hold out fewer, so that some are left to train on."
        )
    order = torch.randperm(
        len(plain), generator=generator_for("held out", seed=run.seed, step=0)
    ).tolist()
    training = plain
    if isinstance(plain, ADE20KScenes):
        training = AugmentedADE20K(name, size_px=run.scene_size_px)
    return ProbeScenes(
        training=training,
        training_indices=order[run.validation_scenes :],
        validation=plain,
        validation_indices=order[: run.validation_scenes],
    )


def open_scenes(name: str, *, split: str, run: ProbeTraining) -> Scenes:
    """Scenes as they are judged, by name; ValueError or OSError where there are none."""
    return run.kind.open_scenes(name, split=split, size_px=run.scene_size_px)


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batch i of a run: pictures uint8 [B, S, S, 3] and the truth about them [B, S, S]; epoch after
    epoch, each in another order."""

    def __init__(self, scenes: ProbeScenes, run: ProbeTraining) -> None:
        self.scenes, self.indices, self.run = scenes.training, scenes.training_indices, run
        self.order = EpochOrder(len(self.indices), seed=run.seed)

    def __len__(self) -> int:
        return self.run.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("augmentation", seed=self.run.seed, step=step))
            batch = [self.scenes[index] for index in self._indices(step)]
        labels = np.stack([self.run.kind.labels(scene) for scene in batch])
        pictures = np.stack([scene.picture for scene in batch])
        return torch.from_numpy(pictures), torch.from_numpy(labels)

    def _indices(self, step: int) -> list[int]:
        places = self.order.indices(step, self.run.scenes_per_step)
        return [self.indices[place] for place in places]


# -- training -------------------------------------------------------------------------------------


def draw_viewpoints(run: ProbeTraining, *, generator: torch.Generator) -> list[Viewpoint]:
    """Random viewpoints of a step's rollouts, one for each glimpse, some with the full scene first.

    Drawn on the CPU, like all else that a seed decides.
    """
    count = run.scenes_per_step
    first, *later = (
        random_viewpoint(batch_size=count, min_scale=run.min_scale, generator=generator)
        for _ in range(run.num_glimpses)
    )
    is_full = torch.rand(count, generator=generator) < run.full_scene_share
    first = Viewpoint(
        centers=first.centers.masked_fill(is_full[:, None], 0),
        scales=first.scales.masked_fill(is_full, 1),
    )
    return [first, *later]


@torch.inference_mode()
def canvases(
    canvit: Core, *, pictures: Tensor, viewpoints: Sequence[Viewpoint], run: ProbeTraining
) -> Tensor:
    """The raw canvas after each glimpse of uint8 [B, S, S, 3]: float32 [T, B, G, G, C]."""
    spatial = normalize(pictures)
    state = canvit.init_state(batch_size=len(pictures), canvas_grid_size=run.canvas_grid_size)
    features = []
    for viewpoint in viewpoints:
        glimpse = sample_at_viewpoint(
            spatial=spatial, viewpoint=viewpoint, glimpse_size_px=run.glimpse_size_px
        )
        with torch.autocast(
            pictures.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"
        ):
            state = canvit(glimpse=glimpse, state=state, viewpoint=viewpoint).state
        features.append(canvit.canvas_patches(state))
    return torch.stack(features).unflatten(2, (run.canvas_grid_size, run.canvas_grid_size))


def probe_loss(probe: CanvasProbe, features: Tensor, labels: Tensor, *, kind: Probing) -> Tensor:
    """The loss of [T, B, G, G, C] against [B, G, G], averaged over all that is known."""
    # All glimpses in one batch, because one set of BatchNorm statistics serves them afterwards.
    read = probe(features.flatten(0, 1))
    return kind.loss(read, labels.repeat(len(features), 1, 1), probe=probe)


def learning_rate_factor(step: int, run: ProbeTraining) -> float:
    """Linear from a millionth to 1 during the warmup, then a half cosine to 0 at the end."""
    if step < run.warmup_steps:
        return warmup(step, steps=run.warmup_steps, start=1e-6)
    return half_cosine((step - run.warmup_steps) / (run.steps - run.warmup_steps))


class ProbeObjective:
    """Objective of `loop.Loop`: see `ProbeTraining`."""

    clip_norm: float | None = None
    clipped: Sequence[Tensor] = ()

    def __init__(
        self, run: ProbeTraining, *, canvit: Core, source: ProbeScenes, record: dict[str, Any]
    ) -> None:
        """canvit: frozen, on the device where the probe is to be. record: what the checkpoint is to
        say about its making."""
        self.run, self.canvit, self.source, self.record = run, canvit, source, record
        self.device = next(canvit.parameters()).device
        self.model = run.kind.new_probe(
            embed_dim=canvit.config.canvas_dim,
            dropout=run.dropout,
            scenes=source.training,
            indices=source.training_indices,
        ).to(self.device)
        adam = torch.optim.AdamW(self.model.parameters(), lr=run.lr, weight_decay=run.weight_decay)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"adam": adam}
        self.rollout = make_rollout(canvit, self.model, scenes=source.validation, run=run)
        self.headline: str | None = self.rollout.task.metrics[0].name

    def learning_rate_factor(self, step: int) -> float:
        return learning_rate_factor(step, self.run)

    def backward(self, batch: tuple[Tensor, Tensor], *, step: int) -> dict[str, Tensor]:
        run = self.run
        pictures, labels = (x.to(self.device, non_blocking=True) for x in batch)
        # The global one, for dropout too.
        generator = torch.manual_seed(seed_for("viewpoints", seed=run.seed, step=step))
        viewpoints = [v.to(self.device) for v in draw_viewpoints(run, generator=generator)]
        features = canvases(self.canvit, pictures=pictures, viewpoints=viewpoints, run=run)
        at_cells = grid_values(labels, run.canvas_grid_size)
        # A clone, because autograd does not take tensors of inference mode.
        loss = probe_loss(self.model, features.clone(), at_cells, kind=run.kind)
        loss.backward()
        return {"loss": loss.detach()}

    def validate(self) -> Figures:
        return validate(self.rollout, self.model, self.source, self.run)

    def save(self, out: Path, finished: Finished) -> None:
        chosen = {
            "selected_step": finished.step,
            "seconds": finished.seconds,
            "validation": finished.figures,
        }
        self.model.save_pretrained(out, extra_config={"training": {**self.record, **chosen}})


def train(
    run: ProbeTraining, *, backbone: str, scenes: str, out: Path, device: str, workers: int
) -> None:
    """Train and leave the best probe in `out`; continues a run that `out` holds."""
    source = training_scenes(scenes, run)
    canvit = load_backbone(backbone, device=device)
    torch.manual_seed(run.seed)
    record = {"backbone": backbone, "backbone_sha256": checkpoint_sha256(backbone)}
    settings = {**asdict(run), **record, "scenes": scenes}
    loop = Loop(
        ProbeObjective(run, canvit=canvit, source=source, record=settings),
        _Batches(source, run),
        pace=Pace(
            steps=run.steps,
            save_every=SAVE_EVERY,
            log_every=SAVE_EVERY,
            validate_every=run.validate_every,
        ),
        settings=settings,
        out=out,
        device=device,
        workers=workers,
    )
    loop.restore()
    loop.run()


def load_backbone(name: str, *, device: str) -> Core:
    """The core of a pretraining or classifier checkpoint, frozen, in eval mode."""
    backbone = load_model((CanViTForPretraining, CanViTForImageClassification), name, device=device)
    return backbone.canvit.requires_grad_(False)


# -- judging --------------------------------------------------------------------------------------


def make_rollout(
    canvit: Core, probe: CanvasProbe, *, scenes: Scenes, run: ProbeTraining
) -> Rollout:
    """Episodes that begin with the full scene, as the environments' do."""
    task = run.kind.task(canvit=canvit, probe=probe, scenes=scenes, label_size_px=run.label_size_px)
    budget = max(run.num_glimpses - 1, _TILES**2)
    return Rollout(task=task, glimpse=run.glimpse, budget=budget, precision=run.precision)


def validate(
    rollout: Rollout, probe: CanvasProbe, source: ProbeScenes, run: ProbeTraining
) -> dict[str, list[float]]:
    """F-IID figures with the probe in eval mode, on the scenes that it is not trained on."""
    probe.eval()
    viewpoints = random_viewpoints(run)
    figures = measure(rollout, source.validation, source.validation_indices, viewpoints, run)
    probe.train()
    return figures


def measure(
    rollout: Rollout,
    scenes: Scenes,
    indices: Sequence[int],
    viewpoints: Callable[[int], list[Viewpoint]],
    run: ProbeTraining,
) -> dict[str, list[float]]:
    """The task's metrics after the full scene and after each further viewpoint; `viewpoints` gives
    those of a batch of so many scenes."""
    metrics = rollout.task.metrics
    above: dict[str, Any] = {metric.name: 0 for metric in metrics}
    below = dict(above)
    for start in range(0, len(indices), run.scenes_per_step):
        batch = [scenes[i] for i in indices[start : start + run.scenes_per_step]]
        episodes = [rollout.start(batch)]
        for viewpoint in viewpoints(len(batch)):
            episodes.append(rollout.look(episodes[-1], viewpoint.to(rollout.device)))
        for metric in metrics:
            parts = [metric.parts_of(episode) for episode in episodes]
            above[metric.name] += torch.stack([values.sum(dim=0) for values, _ in parts])
            below[metric.name] += torch.stack([counts.sum(dim=0) for _, counts in parts])
    found = {}
    for name in above:
        known = below[name] > 0
        ratios = above[name] / below[name].where(known, 1)
        found[name] = (ratios.sum(dim=1) / known.sum(dim=1).clamp(min=1)).tolist()
    return found


def random_viewpoints(run: ProbeTraining) -> Callable[[int], list[Viewpoint]]:
    """R-IID after the full scene, which makes F-IID; always the same ones for a seed."""
    generator = generator_for("viewpoints", seed=run.seed, step=0)

    def draw(count: int) -> list[Viewpoint]:
        return [
            random_viewpoint(batch_size=count, min_scale=run.min_scale, generator=generator)
            for _ in range(run.num_glimpses - 1)
        ]

    return draw


def tiles(count: int) -> list[Viewpoint]:
    """The sixteen tiles of a quarter of the side, row-major: together they show everything."""
    return [
        Viewpoint(centers=center.expand(count, 2), scales=torch.full((count,), 1 / _TILES))
        for center in grid_centers(_TILES)
    ]


def evaluate(
    run: ProbeTraining,
    *,
    backbone: str,
    probe: str,
    scenes: str,
    split: str,
    num_scenes: int,
    device: str,
) -> dict[str, Any]:
    """Figures on the first scenes of a split, by name (see `measure`).

    f_iid: after each glimpse of full-then-random rollouts. full_scene_and_tiles: after the full
    scene and all sixteen tiles of it. Raises ValueError or OSError for names that lead nowhere.
    """
    if num_scenes < 1:
        raise ValueError(f"num_scenes is {num_scenes}; give at least 1.")
    opened = open_scenes(scenes, split=split, run=run)
    indices = range(min(num_scenes, len(opened)))
    rollout = make_rollout(
        load_backbone(backbone, device=device),
        run.kind.load_probe(probe, device=device),
        scenes=opened,
        run=run,
    )
    everything = measure(rollout, opened, indices, tiles, run)
    return {
        "scenes": len(indices),
        "f_iid": measure(rollout, opened, indices, random_viewpoints(run), run),
        "full_scene_and_tiles": {name: values[-1] for name, values in everything.items()},
    }


# -- command line ---------------------------------------------------------------------------------

_EVALUATION_SETTINGS = (
    "task", "scenes_per_step", "num_glimpses", "scene_size_px", "glimpse_size_px",
    "canvas_grid_size", "min_scale", "label_size_px", "precision", "seed",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a probe; a mistake in the arguments is one sentence on stderr and exit status 2."""
    args = _parser().parse_args(arguments)
    try:
        given = {
            name: getattr(args, name)
            for name in _EVALUATION_SETTINGS
            if getattr(args, name) is not None
        }
        run = replace(preset(args.preset or ("mini" if args.scenes == EMOJI else "ours")), **given)
        figures = {
            split: evaluate(
                run,
                backbone=args.backbone,
                probe=args.probe,
                scenes=args.scenes,
                split=split,
                num_scenes=args.num_scenes,
                device=args.device,
            )
            for split in args.split
        }
        print(json.dumps(figures, indent=2))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.training.probe", description="Measure a probe of the canvas."
    )
    parser.add_argument("--probe", required=True, help="official id, directory or embedded name")
    parser.add_argument("--split", nargs="+", default=["test"])
    parser.add_argument("--num-scenes", type=int, default=1000)
    parser.add_argument("--backbone", required=True, help="official id, directory or embedded name")
    parser.add_argument("--scenes", required=True, help=f"{EMOJI!r}, or a folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--preset", choices=("mini", "ours"), help="by default mini for emoji, else ours"
    )
    for field in fields(ProbeTraining):
        if field.name in _EVALUATION_SETTINGS:
            flag = "--" + field.name.replace("_", "-")
            parser.add_argument(flag, type=type(field.default), help="in place of the preset")
    return parser


if __name__ == "__main__":
    sys.exit(main())
