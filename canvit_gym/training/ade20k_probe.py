"""The published recipe of ADE20K probes: of the canvas of a frozen CanViT, or of a frozen teacher's
patches, the passive baseline.

It differs from `training.probe`, which made our own, in five things. Its cosine begins with the
first step; crops that one class fills are drawn again; BatchNorm sees the features of each glimpse
by themselves; a cell's label is that of its top left pixel; and the validation pictures choose the
probe, by predictions at the size of the canvas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from canvit_gym.envs.rollout import Precision
from canvit_gym.errors import require_choice, require_int, require_number
from canvit_gym.geometry import Viewpoint, sample_at_viewpoint
from canvit_gym.model.canvit import Core
from canvit_gym.model.checkpoints import checkpoint_sha256
from canvit_gym.model.segmentation import SegmentationProbe
from canvit_gym.preprocess import normalize
from canvit_gym.scenes.ade20k import ADE20KScenes
from canvit_gym.scenes.base import IGNORE, Scenes
from canvit_gym.training.batches import held_out_indices
from canvit_gym.training.common import EpochOrder, generator_for, seed_for
from canvit_gym.training.loop import Figures, Finished, Loop, Pace
from canvit_gym.training.probe import AugmentedADE20K, load_backbone
from canvit_gym.training.processes import Processes
from canvit_gym.training.rollouts import draw_viewpoint
from canvit_gym.training.schedules import half_cosine, warmup
from canvit_gym.training.teachers import Teacher, load_teacher

_LOG_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class ADE20KProbeTraining:
    """A run of the published recipe: everything that decides its outcome but pictures and backbone.

    Raises ValueError where a value is out of range.
    """

    steps: int = 40_000
    scenes_per_step: int = 16
    seed: int = 0

    scene_size_px: int = 512
    teacher_size_px: int = 0
    """Side at which a teacher sees scenes, for a probe of its patches; 0 for one of the canvas."""
    glimpse_size_px: int = 128
    canvas_grid_size: int = 32
    min_scale: float = 0.05
    num_glimpses: int = 10
    """R-IID in training; F-IID in validation."""

    lr: float = 3e-4
    start_lr_factor: float = 1e-6
    warmup_steps: int = 1500
    weight_decay: float = 1e-3
    dropout: float = 0.1
    precision: Precision = "bfloat16"
    """Precision of what is frozen; the canvas and the probe are float32 in any case."""

    validate_every: int = 500
    held_out: int = 0
    """How many training pictures choose the probe in place of the validation pictures, on which
    policies are judged."""
    save_every: int = 500

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, get_args(Precision))
        for name in (
            "steps", "scenes_per_step", "scene_size_px", "glimpse_size_px", "canvas_grid_size",
            "num_glimpses", "validate_every", "save_every",
        ):  # fmt: skip
            require_int(name, getattr(self, name), at_least=1)
        for name in ("seed", "teacher_size_px", "warmup_steps", "held_out"):
            require_int(name, getattr(self, name), at_least=0)
        for name in ("lr", "weight_decay"):
            require_number(name, getattr(self, name), at_least=0)
        for name, low in (("min_scale", 0.001), ("start_lr_factor", 0.0)):
            if not low <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give {low} to 1.")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} and steps {self.steps}; give fewer than "
                "steps."
            )


class FeatureMaps(Protocol):
    """A protocol of what is frozen and gives features of scenes to a probe.

    dim: their width. normalised: whether a LayerNorm was their last layer, so that the probe needs
    none.
    """

    @property
    def dim(self) -> int: ...

    @property
    def normalised(self) -> bool: ...

    def __call__(self, pictures: Tensor, viewpoints: Sequence[Viewpoint]) -> Iterator[Tensor]:
        """Maps float32 [B, H, W, dim] of pictures uint8 [B, S, S, 3], one after the other."""
        ...


class CanvasMaps:
    """The canvas of a frozen CanViT after each glimpse."""

    normalised = False

    def __init__(self, canvit: Core, run: ADE20KProbeTraining) -> None:
        self.canvit, self.run, self.dim = canvit, run, canvit.config.canvas_dim

    @torch.no_grad()
    def __call__(self, pictures: Tensor, viewpoints: Sequence[Viewpoint]) -> Iterator[Tensor]:
        run, grid = self.run, self.run.canvas_grid_size
        scenes = normalize(pictures)
        state = self.canvit.init_state(batch_size=len(scenes), canvas_grid_size=grid)
        for viewpoint in viewpoints:
            viewpoint = viewpoint.to(pictures.device)
            glimpse = sample_at_viewpoint(
                spatial=scenes, viewpoint=viewpoint, glimpse_size_px=run.glimpse_size_px
            )
            with _autocast(run, pictures):
                state = self.canvit(glimpse=glimpse, state=state, viewpoint=viewpoint).state
            yield self.canvit.canvas_patches(state).unflatten(1, (grid, grid))


class TeacherMaps:
    """The patches of a frozen teacher, which sees each scene once, whole."""

    normalised = True

    def __init__(self, teacher: Teacher, run: ADE20KProbeTraining) -> None:
        self.teacher, self.run, self.dim = teacher, run, teacher.dim
        self.grid = teacher.patch_grid(run.teacher_size_px)

    @torch.no_grad()
    def __call__(self, pictures: Tensor, viewpoints: Sequence[Viewpoint]) -> Iterator[Tensor]:
        size = self.run.teacher_size_px
        if pictures.shape[1] != size:
            # Without anti-aliasing, as published.
            planes = pictures.permute(0, 3, 1, 2).float()
            planes = F.interpolate(planes, size=(size, size), mode="bilinear")
            pictures = planes.round().to(torch.uint8).permute(0, 2, 3, 1)
        with _autocast(self.run, pictures):
            patches = self.teacher(pictures).patches
        yield patches.float().unflatten(1, (self.grid, self.grid))


def _autocast(run: ADE20KProbeTraining, like: Tensor) -> torch.autocast:
    enabled = run.precision == "bfloat16"
    return torch.autocast(like.device.type, torch.bfloat16, enabled=enabled)


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batch i of a run: pictures uint8 [B, S, S, 3] and masks uint8 [B, S, S]."""

    def __init__(
        self,
        scenes: Scenes,
        indices: Sequence[int],
        run: ADE20KProbeTraining,
        processes: Processes,
    ) -> None:
        self.scenes, self.indices, self.run = scenes, indices, run
        self.share = processes.share(run.scenes_per_step)
        self.order = EpochOrder(len(indices), seed=run.seed)

    def __len__(self) -> int:
        return self.run.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        count = self.run.scenes_per_step
        places = self.order.indices(step, count)[self.share]
        base = seed_for("augmentation", seed=self.run.seed, step=step) * count
        batch = []
        with torch.random.fork_rng(devices=[]):
            for place, number in zip(places, range(count)[self.share], strict=True):
                torch.manual_seed(base + number)
                batch.append(self.scenes[int(self.indices[place])])
        return stacked(batch)


def stacked(scenes: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [B, S, S, 3] and masks uint8 [B, S, S] of scenes."""
    pictures, masks = (
        torch.from_numpy(np.stack([getattr(scene, name) for scene in scenes]))
        for name in ("picture", "mask")
    )
    return pictures, masks


def resized_labels(labels: Tensor, side: int) -> Tensor:
    """Labels [B, S, S] as int64 [B, side, side], each the nearest towards the top left."""
    if labels.shape[1] == side:
        return labels.long()
    resized = F.interpolate(labels[:, None].float(), size=(side, side), mode="nearest")
    return resized[:, 0].long()


class ADE20KProbeObjective:
    """Objective of `loop.Loop`: see `ADE20KProbeTraining`."""

    headline: str | None = "miou"
    clip_norm: float | None = None
    clipped: Sequence[Tensor] = ()

    def __init__(
        self,
        run: ADE20KProbeTraining,
        maps: FeatureMaps,
        *,
        num_classes: int,
        validation: tuple[Scenes, Sequence[int]],
        record: dict[str, Any],
        device: torch.device | str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        """validation: scenes, and which of them. record: what the checkpoint is to say about its
        making."""
        self.run, self.maps, self.validation, self.record = run, maps, validation, record
        self.device, self.processes = torch.device(device), processes or Processes()
        self.model = SegmentationProbe(
            embed_dim=maps.dim,
            num_classes=num_classes,
            dropout=run.dropout,
            use_ln=not maps.normalised,
        ).to(device)
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(
                self.model.parameters(), lr=run.lr, weight_decay=run.weight_decay
            )
        }

    def learning_rate_factor(self, step: int) -> float:
        """A warm-up times a falling line, then a cosine that counts from step 0."""
        run = self.run
        if step < run.warmup_steps:
            rising = warmup(step, steps=run.warmup_steps, start=run.start_lr_factor)
            return rising * (1 - step / run.steps)
        return half_cosine((step + 1) / run.steps)

    def backward(self, batch: tuple[Tensor, Tensor], *, step: int) -> dict[str, Tensor]:
        run = self.run
        pictures, masks = (x.to(self.device, non_blocking=True) for x in batch)
        generator = torch.manual_seed(seed_for("viewpoints", seed=run.seed, step=step))  # dropout
        share, count = self.processes.share(run.scenes_per_step), run.scenes_per_step
        views = [self._draw(count, 0.0, generator)[share] for _ in range(run.num_glimpses)]
        total = torch.zeros((), device=self.device)
        num_maps = 1 if run.teacher_size_px else run.num_glimpses
        for features in self.maps(pictures, views):
            logits = self.model(features)
            labels = resized_labels(masks, logits.shape[-1])
            loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
            # A batch may have no labels at all.
            loss = loss / (labels != IGNORE).sum().clamp(min=1) / num_maps
            loss.backward()
            total += loss.detach()
        return {"loss": total}

    @torch.no_grad()
    def validate(self) -> Figures:
        """mIoU after each glimpse of F-IID rollouts, of predictions at the size of the features."""
        run = self.run
        scenes, indices = self.validation
        generator = generator_for("held out", seed=run.seed, step=1)
        classes = self.model.num_classes
        self.model.eval()
        counts: list[Tensor] = []
        for start in range(0, len(indices), run.scenes_per_step):
            pictures, masks = stacked(
                [scenes[int(i)] for i in indices[start : start + run.scenes_per_step]]
            )
            masks = masks.to(self.device)
            views = [
                self._draw(len(masks), float(t == 0), generator) for t in range(run.num_glimpses)
            ]
            found = []
            for features in self.maps(pictures.to(self.device), views):
                predicted = resized_labels(self.model(features).argmax(1), masks.shape[-1])
                found.append(confusion(predicted, masks.long(), classes=classes))
            counts = [a + b for a, b in zip(counts, found, strict=True)] if counts else found
        self.model.train()
        return {"miou": [mean_iou(count) for count in counts]}

    def save(self, out: Path, finished: Finished) -> None:
        chosen = {
            "selected_step": finished.step,
            "seconds": finished.seconds,
            "validation": finished.figures,
        }
        self.model.save_pretrained(out, extra_config={"training": {**self.record, **chosen}})

    def _draw(self, count: int, full_share: float, generator: torch.Generator) -> Viewpoint:
        return draw_viewpoint(
            count, min_scale=self.run.min_scale, full_share=full_share, generator=generator
        )


def confusion(predicted: Tensor, labels: Tensor, *, classes: int) -> Tensor:
    """How often each class was predicted for each: int64 [true, predicted], without IGNORE."""
    known = labels != IGNORE
    pairs = labels[known] * classes + predicted[known]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def mean_iou(counts: Tensor) -> float:
    """Intersection over union of a confusion matrix, averaged over the classes that occur."""
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    return float((right / union.clamp(min=1))[union > 0].double().mean())


def train_ade20k_probe(
    run: ADE20KProbeTraining,
    *,
    scenes: str | Path,
    out: Path,
    backbone: str | Path | None = None,
    teacher: str | Teacher | None = None,
    device: str = "cpu",
    workers: int = 1,
    processes: Processes | None = None,
    show: bool = True,
) -> SegmentationProbe:
    """Train, and leave the probe of the best validation in `out`; continues a run there.

    scenes: an ADE20K folder. backbone: a CanViT's checkpoint; for a run with `teacher_size_px`, in
    its place, the teacher.

    Raises ValueError or OSError, before anything is trained, where settings do not fit, names lead
    nowhere or `out` can not be written to.
    """
    processes = processes or Processes()
    made_of: dict[str, Any] = {"scenes": str(scenes)}
    if run.teacher_size_px:
        if teacher is None or backbone is not None:
            raise ValueError(
                f"teacher_size_px is {run.teacher_size_px}, so the probe is of a teacher's patches;"
                " give a teacher and no backbone."
            )
        seeing = load_teacher(teacher, device=device) if isinstance(teacher, str) else teacher
        made_of["teacher"] = seeing.name
        maps: FeatureMaps = TeacherMaps(seeing, run)
    else:
        if backbone is None or teacher is not None:
            raise ValueError(
                "teacher_size_px is 0, so the probe is of a canvas; give a backbone and no teacher."
            )
        made_of |= {"backbone": str(backbone), "backbone_sha256": checkpoint_sha256(backbone)}
        maps = CanvasMaps(load_backbone(str(backbone), device=device), run)
    size = run.scene_size_px
    source = AugmentedADE20K(scenes, size_px=size, redraw=True)
    if run.held_out:
        judged: Scenes = ADE20KScenes(scenes, split="train", size_px=size)
        chosen, indices = held_out_indices(source, None, count=run.held_out, seed=run.seed)
    else:
        judged = ADE20KScenes(scenes, split="test", size_px=size)
        chosen, indices = range(len(source)), range(len(judged))
    torch.manual_seed(run.seed)
    settings = {**asdict(run), **made_of}
    objective = ADE20KProbeObjective(
        run,
        maps,
        num_classes=len(source.mask_class_names),
        validation=(judged, indices),
        record=settings,
        device=device,
        processes=processes,
    )
    loop = Loop(
        objective,
        _Batches(source, chosen, run, processes),
        pace=Pace(
            steps=run.steps,
            save_every=run.save_every,
            log_every=min(_LOG_EVERY, run.save_every),
            validate_every=run.validate_every,
            validate_first=True,
        ),
        settings=settings,
        out=out,
        device=device,
        workers=workers,
        processes=processes,
        show=show,
    )
    loop.restore()
    loop.run()
    return objective.model
