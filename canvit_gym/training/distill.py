"""Distillation: a CanViT learns to predict, after every glimpse, what a frozen teacher sees in the
whole scene (arXiv 2603.22570, section 5).

A step's scenes are looked at in several rollouts, each from a fresh state. Gradients flow through
chunks of a few glimpses, so memory is that of a chunk however long a rollout is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from canvit_gym.envs.rollout import Precision
from canvit_gym.errors import require_choice, require_int, require_number
from canvit_gym.geometry import (
    Viewpoint,
    grid_in_scene,
    sample_at_viewpoint,
)
from canvit_gym.model.canvit import RecurrentState
from canvit_gym.model.checkpoints import save_probe
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import CanViTForPretraining, Standardizer
from canvit_gym.training.batches import DistillationBatch
from canvit_gym.training.common import generator_for
from canvit_gym.training.loop import Figures, Finished
from canvit_gym.training.muon import Muon
from canvit_gym.training.processes import Processes
from canvit_gym.training.reconstruction import cosines
from canvit_gym.training.rollouts import coarse_to_fine, draw_viewpoint, scenes_of
from canvit_gym.training.schedules import decay, warmup
from canvit_gym.training.teachers.base import Teacher, TeacherFeatures

PROBE = "probe"
"""Directory in a run's, with the teacher's classifier as a linear probe of its CLS."""

OptimizerName = Literal["adamw", "muon"]
Statistics = Literal["position", "channel"]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A pretraining run: everything that decides its outcome but scenes and teacher.

    The defaults are the published recipe of CanViT-B. Raises ValueError where a value is out of
    range or does not fit the others.
    """

    model: CanViTConfig = field(default_factory=CanViTConfig)
    steps: int = 2_000_000
    scenes_per_step: int = 64
    seed: int = 0

    scene_size_px: int = 512
    picture_size_px: int = 512
    """Side of the pictures that the teacher sees; where scenes are smaller, they are made of them.
    """
    glimpse_size_px: int = 128
    canvas_grid_size: int = 32
    """The teacher's feature grid has the same size."""
    min_scale: float = 0.05
    flip: bool = False
    """Whether pictures are mirrored at random."""
    crop_area: float = 1.0
    """Smallest share of a picture's area that a random crop of it shows; 1 takes it whole."""

    rollouts: tuple[float, ...] = (1.0, 0.0)
    """For each rollout of a step, the share of scenes whose first glimpse is the full scene; all
    other glimpses are R-IID. So 1 is F-IID and 0 R-IID."""
    chunk_glimpses: int = 2
    """Gradients flow through as many glimpses."""
    stop_probability: float = 0.5
    """After each chunk of glimpses a rollout ends with this probability."""
    lengths: tuple[int, ...] = ()
    """In place of that, one of these numbers of glimpses, drawn for each step."""

    patch_loss: float = 1.0
    """Weight of the mean squared error of the teacher's patches, standardised; 0 leaves it out."""
    cls_loss: float = 1.0
    """The same of its CLS."""
    class_loss: float = 0.0
    """Weight of the KL divergence from the teacher's classes, read by its own classifier."""
    label_loss: float = 0.0
    """Weight of the cross-entropy of the scenes' own labels, read by the teacher's classifier; 0
    for scenes without a label."""
    token_loss: float = 0.0
    """Weight of the mean squared error of the teacher's patches under each token of the glimpse, by
    a linear readout that is dropped at the end: it makes a small ViT start to learn."""
    statistics: Statistics = "position"
    """Whether features are standardised for each position, or for each channel over all."""
    statistics_scenes: int = 4096
    """Scenes, the first ones, that statistics are taken over."""

    init_from_teacher: bool = False
    """Whether blocks and patch embedding begin as the teacher's, which a DINOv3 of the backbone's
    size has."""
    optimizer: OptimizerName = "adamw"
    """muon: Muon for the matrices inside the core, AdamW for the rest."""
    lr: float = 4e-4
    start_lr: float = 1e-7
    """Learning rates rise linearly from this share of lr; of Muon's, the same share."""
    warmup_steps: int = 100_000
    decay_steps: int = 0
    """Over as many steps, at the end, learning rates fall linearly to zero."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    muon_lr: float = 0.02
    muon_weight_decay: float = 0.01
    clip_norm: float = 1.0
    precision: Precision = "bfloat16"

    validate_every: int = 1000
    validation_scenes: int = 64
    validation_glimpses: int = 10
    """Coarse to fine."""
    save_every: int = 4992

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, get_args(Precision))
        require_choice("optimizer", self.optimizer, get_args(OptimizerName))
        require_choice("statistics", self.statistics, get_args(Statistics))
        for name in (
            "steps", "scenes_per_step", "scene_size_px", "picture_size_px", "glimpse_size_px",
            "canvas_grid_size", "chunk_glimpses", "statistics_scenes", "validate_every",
            "validation_glimpses", "save_every",
        ):  # fmt: skip
            require_int(name, getattr(self, name), at_least=1)
        for name in (
            "seed", "warmup_steps", "decay_steps", "validation_scenes",
        ):  # fmt: skip
            require_int(name, getattr(self, name), at_least=0)
        for name in (
            "patch_loss", "cls_loss", "class_loss", "label_loss", "token_loss", "lr",
            "start_lr", "weight_decay", "muon_lr", "muon_weight_decay", "clip_norm",
        ):  # fmt: skip
            require_number(name, getattr(self, name), at_least=0)
        for name, low in (("min_scale", 0.001), ("crop_area", 0.001), ("stop_probability", 0.001)):
            if not low <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give {low} to 1.")
        if not self.rollouts or not all(0 <= share <= 1 for share in self.rollouts):
            raise ValueError(
                f"rollouts is {self.rollouts}; give for each rollout the share of scenes that "
                "begin with the full scene, 0 to 1."
            )
        if not all(length >= 1 for length in self.lengths):
            raise ValueError(f"lengths is {self.lengths}; give numbers of glimpses, at least 1.")
        losses = (self.patch_loss, self.cls_loss, self.class_loss, self.label_loss, self.token_loss)
        if not any(losses):
            raise ValueError("All losses have the weight 0; give patch_loss or cls_loss some.")
        if self.scene_size_px > self.picture_size_px:
            raise ValueError(
                f"scene_size_px is {self.scene_size_px}, but pictures have {self.picture_size_px} "
                "px; give picture_size_px at least as many."
            )
        if not 0 < self.start_lr <= self.lr:
            raise ValueError(
                f"start_lr is {self.start_lr} and lr {self.lr}; give 0 < start_lr <= lr."
            )


class Targets(NamedTuple):
    """What is to be predicted: float32, patches [B, G^2, D] and cls [B, D] standardised, and as the
    teacher gave them."""

    patches: Tensor
    cls: Tensor
    raw_patches: Tensor
    raw_cls: Tensor


class Student(nn.Module):
    """The CanViT that is kept, with an auxiliary readout that is not."""

    def __init__(self, run: Distillation, *, teacher_dim: int) -> None:
        super().__init__()
        self.kept = CanViTForPretraining(
            canvit_config=run.model,
            teacher_dim=teacher_dim,
            teacher_patch_grid=run.canvas_grid_size,
        )
        dim = run.model.backbone.dim
        self.token_readout = (
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, teacher_dim))
            if run.token_loss
            else None
        )


class DistillationObjective:
    """Objective of `loop.Loop`: see `Distillation`."""

    headline = None

    def __init__(
        self,
        run: Distillation,
        *,
        teacher_dim: int,
        teacher: Teacher | None = None,
        classifier: tuple[Tensor, Tensor] | None = None,
        validation: DistillationBatch | None = None,
        record: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        """teacher: asked where a batch brings no features. classifier: weight [classes, D] and bias
        of the teacher's classes. validation: scenes that are not trained on. record: what the
        checkpoint is to say about its making, beside the settings.

        Raises ValueError where the settings need what is not given.
        """
        if (run.class_loss or run.label_loss) and classifier is None:
            raise ValueError(
                "class_loss and label_loss need the teacher's classifier, which this teacher does "
                "not have; give class_loss=0 and label_loss=0."
            )
        self.run, self.teacher, self.validation = run, teacher, validation
        self.record, self.device = record or {}, torch.device(device)
        self.processes = processes or Processes()
        self.model = Student(run, teacher_dim=teacher_dim).to(device)
        self.classifier: tuple[Tensor, Tensor] | None = None
        if classifier is not None:
            weight, bias = classifier
            self.classifier = weight.to(device).float(), bias.to(device).float()
        self.optimizers = make_optimizers(self.model, run)
        self.clip_norm: float | None = run.clip_norm
        self.clipped = [
            p
            for name, optimizer in self.optimizers.items()
            if name != "muon"  # whose updates have a norm of their own
            for group in optimizer.param_groups
            for p in group["params"]
        ]

    @property
    def kept(self) -> CanViTForPretraining:
        return self.model.kept

    def learning_rate_factor(self, step: int) -> float:
        run = self.run
        rising = warmup(step, steps=run.warmup_steps, start=run.start_lr / run.lr)
        return rising * decay(step, steps=run.steps, decay_steps=run.decay_steps)

    @property
    def is_fitted(self) -> bool:
        """Whether there are statistics of the teacher's features."""
        kept = self.kept
        return bool(kept.teacher_patch_standardizer.fitted & kept.teacher_cls_standardizer.fitted)

    def fit_standardizers(self, batches: Iterable[DistillationBatch]) -> None:
        """Take the statistics of the teacher's features over the first scenes of these batches,
        all of which each process is to see; a batch too many is left alone."""
        patches, cls = RunningMoments(), RunningMoments()
        left = self.run.statistics_scenes
        for batch in batches:
            features = self._features(batch)
            patches.add(features.patches[:left])
            cls.add(features.cls[:left, None])
            left -= len(features.cls)
            if left <= 0:
                break
        for moments, standardizer in (
            (patches, self.kept.teacher_patch_standardizer),
            (cls, self.kept.teacher_cls_standardizer),
        ):
            moments.give(standardizer, per_channel=self.run.statistics == "channel")

    def backward(self, batch: DistillationBatch, *, step: int) -> dict[str, Tensor]:
        scenes, targets = self._scenes(batch), self._targets(batch)
        labels = batch.labels.to(self.device)
        run, plan = self.run, self.rollouts(step)
        totals: dict[str, Tensor] = {}
        for viewpoints in plan:
            state = self._begin(len(scenes))
            chunk = torch.zeros((), device=self.device)
            weight = 1 / len(viewpoints) / len(plan)
            for t, viewpoint in enumerate(viewpoints, start=1):
                with self._autocast():
                    state, terms = self._look(
                        scenes, state, viewpoint.to(self.device), targets, labels
                    )
                loss = torch.stack(
                    [getattr(run, f"{name}_loss") * term for name, term in terms.items()]
                ).sum()
                chunk = chunk + loss
                for name, value in {"loss": loss, **terms}.items():
                    totals[name] = totals.get(name, 0) + value.detach() * weight
                if t % run.chunk_glimpses == 0 or t == len(viewpoints):
                    # Outside autocast, as compiled backward passes need it.
                    (chunk * weight).backward()
                    chunk = torch.zeros((), device=self.device)
                    state = state.detach()
        totals["glimpses"] = torch.tensor(float(len(plan[0])), device=self.device)
        return totals

    def rollouts(self, step: int) -> list[list[Viewpoint]]:
        """The viewpoints of a step, for each rollout one for each glimpse, of this process's
        scenes. (seed, step) decides all of them, in however many processes."""
        run, count = self.run, self.run.scenes_per_step
        generator = generator_for("viewpoints", seed=run.seed, step=step)
        length = draw_length(run, generator=generator)
        share = self.processes.share(count)
        return [
            [
                draw_viewpoint(
                    count,
                    min_scale=run.min_scale,
                    full_share=full_share if t == 0 else 0.0,
                    generator=generator,
                )[share]
                for t in range(length)
            ]
            for full_share in run.rollouts
        ]

    @torch.no_grad()
    def validate(self) -> Figures:
        """Cosines of predicted and true features after each glimpse, standardised and as they are;
        accuracy of the teacher's classifier on the predicted CLS, and on the true one."""
        if self.validation is None:
            return {}
        self.model.eval()
        try:
            return self._validate(self.validation)
        finally:
            self.model.train()

    def _validate(self, batch: DistillationBatch) -> Figures:
        run, size = self.run, self.run.scenes_per_step
        parts = [batch.part(slice(i, i + size)) for i in range(0, len(batch.labels), size)]
        generator = generator_for("held out", seed=run.seed, step=1)
        sums: dict[str, list[float]] = {}
        right = 0.0
        for part in parts:
            scenes, targets = self._scenes(part), self._targets(part)
            labels = part.labels.to(self.device)
            state = self._begin(len(scenes))
            views = coarse_to_fine(
                len(scenes), num_glimpses=run.validation_glimpses, generator=generator
            )
            for t, viewpoint in enumerate(views):
                with self._autocast():
                    state, _ = self._look(scenes, state, viewpoint.to(self.device), targets, labels)
                for name, values in self._similarities(state, targets, labels).items():
                    sums.setdefault(name, [0.0] * len(views))[t] += float(values.sum())
            if self.classifier is not None:
                right += float((self._classes(targets.raw_cls).argmax(1) == labels).sum())
        labelled = int((batch.labels >= 0).sum())
        figures: dict[str, Any] = {
            name: [v / (labelled if name == "top1" else len(batch.labels)) for v in values]
            for name, values in sums.items()
            if name != "top1" or labelled
        }
        if "top1" in figures:
            figures["teacher_top1"] = right / labelled
        return figures

    def save(self, out: Path, finished: Finished) -> None:
        record = {
            **asdict(self.run),
            **self.record,
            "finished_steps": finished.step,
            "seconds": finished.seconds,
        }
        self.kept.save_pretrained(out, extra_config={"training": record})
        if self.classifier is not None:
            save_probe(out / PROBE, *self.classifier)

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self.run.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _begin(self, count: int) -> RecurrentState:
        return self.kept.init_state(batch_size=count, canvas_grid_size=self.run.canvas_grid_size)

    def _scenes(self, batch: DistillationBatch) -> Tensor:
        """Normalised scenes float32 [B, 3, S, S]."""
        return scenes_of(batch.pictures, size_px=self.run.scene_size_px, device=self.device)

    def _features(self, batch: DistillationBatch) -> TeacherFeatures:
        """The teacher's features as float32 on the device, asked for where the batch has none."""
        if batch.patches is not None and batch.cls is not None:
            # Copied first and cast there: casting on the host would hold up everything.
            patches, cls = (
                x.to(self.device, non_blocking=True).float() for x in (batch.patches, batch.cls)
            )
        elif self.teacher is not None:
            with torch.no_grad(), self._autocast():
                patches, cls = self.teacher(batch.pictures.to(self.device, non_blocking=True))
            patches, cls = patches.float(), cls.float()
        else:
            raise ValueError("The batches bring no features, and there is no teacher; name one.")
        wanted = (self.run.canvas_grid_size**2, self.kept.teacher_dim)
        if patches.shape[1:] != wanted or cls.shape[1:] != wanted[1:]:
            raise ValueError(
                f"The teacher's features are {list(patches.shape[1:])} and {list(cls.shape[1:])}, "
                f"but a canvas of {self.run.canvas_grid_size} cells a side takes {list(wanted)} "
                f"and {list(wanted[1:])}; change picture_size_px or canvas_grid_size."
            )
        return TeacherFeatures(patches=patches, cls=cls)

    def _targets(self, batch: DistillationBatch) -> Targets:
        patches, cls = self._features(batch)
        return Targets(
            patches=self.kept.teacher_patch_standardizer(patches),
            cls=self.kept.teacher_cls_standardizer(cls[:, None])[:, 0],
            raw_patches=patches,
            raw_cls=cls,
        )

    def _look(
        self,
        scenes: Tensor,
        state: RecurrentState,
        viewpoint: Viewpoint,
        targets: Targets,
        labels: Tensor,
    ) -> tuple[RecurrentState, dict[str, Tensor]]:
        """The state after a glimpse, and the losses then, unweighted, by name."""
        run, kept = self.run, self.kept
        glimpse = sample_at_viewpoint(
            spatial=scenes, viewpoint=viewpoint, glimpse_size_px=run.glimpse_size_px
        )
        output = kept(glimpse=glimpse, state=state, viewpoint=viewpoint)
        state = output.state
        terms = {}
        if run.patch_loss:
            terms["patch"] = F.mse_loss(kept.predict_teacher_patches(state), targets.patches)
        if run.cls_loss or run.class_loss or run.label_loss:
            cls = kept.predict_teacher_cls(state)
            if run.cls_loss:
                terms["cls"] = F.mse_loss(cls, targets.cls)
        if run.class_loss or run.label_loss:
            logits = self._classes(self._destandardized(cls))
            if run.class_loss:
                terms["class"] = F.kl_div(
                    logits.log_softmax(1),
                    self._classes(targets.raw_cls).log_softmax(1),
                    log_target=True,
                    reduction="batchmean",
                )
            if run.label_loss:
                # Over all scenes, so that those with a label weigh the same in every batch.
                found = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
                terms["label"] = found / len(labels)
        if self.model.token_readout is not None:
            with torch.autocast(self.device.type, enabled=False):
                tokens = output.glimpse_patches.float()
                side = run.glimpse_size_px // run.model.backbone.patch_size_px
                terms["token"] = F.mse_loss(
                    self.model.token_readout(tokens), features_at(targets.patches, viewpoint, side)
                )
        return state, terms

    def _classes(self, cls: Tensor) -> Tensor:
        """The teacher's class logits from its CLS."""
        assert self.classifier is not None
        weight, bias = self.classifier
        with torch.autocast(self.device.type, enabled=False):
            return F.linear(cls, weight, bias)

    def _destandardized(self, cls: Tensor) -> Tensor:
        return self.kept.teacher_cls_standardizer.destandardize(cls[:, None])[:, 0]

    def _similarities(
        self, state: RecurrentState, targets: Targets, labels: Tensor
    ) -> dict[str, Tensor]:
        """For each scene, float [B], by name."""
        features = TeacherFeatures(patches=targets.raw_patches, cls=targets.raw_cls)
        found = cosines(self.kept, state, features)
        if self.classifier is not None:
            raw_cls = self._destandardized(self.kept.predict_teacher_cls(state))
            found["top1"] = (self._classes(raw_cls).argmax(1) == labels).float()
        return found


class RunningMoments:
    """Mean and variance over samples [S, N, D] that come in parts, summed in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        double = features.double() if features.device.type != "mps" else features.cpu().double()
        self.count += len(features)
        self.sum = self.sum.to(double.device) + double.sum(0)
        self.squares = self.squares.to(double.device) + double.square_().sum(0)

    def give(self, standardizer: Standardizer, *, per_channel: bool) -> None:
        """Make these a standardizer's statistics: of each position, or of all positions alike."""
        mean, squares = self.sum / self.count, self.squares / self.count
        if per_channel:
            mean, squares = (x.mean(0, keepdim=True).expand_as(x) for x in (mean, squares))
        standardizer.mean.copy_(mean)
        standardizer.var.copy_((squares - mean.square()).clamp(min=0))
        standardizer.fitted.fill_(True)


def make_optimizers(model: Student, run: Distillation) -> dict[str, torch.optim.Optimizer]:
    """AdamW for everything; or Muon for the matrices inside the core and AdamW for the rest."""
    matrices = [
        p
        for name, p in model.kept.canvit.named_parameters()
        if run.optimizer == "muon" and p.ndim == 2 and name.endswith("weight")
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(rest, lr=run.lr, betas=run.betas, weight_decay=run.weight_decay)
    }
    if matrices:
        optimizers["muon"] = Muon(matrices, lr=run.muon_lr, weight_decay=run.muon_weight_decay)
    return optimizers


def draw_length(run: Distillation, *, generator: torch.Generator) -> int:
    """How many glimpses the rollouts of a step have."""
    if run.lengths:
        return run.lengths[int(torch.randint(len(run.lengths), (), generator=generator))]
    length = run.chunk_glimpses
    while float(torch.rand((), generator=generator)) >= run.stop_probability:
        length += run.chunk_glimpses
    return length


def features_at(patches: Tensor, viewpoint: Viewpoint, side: int) -> Tensor:
    """A map of features [B, G^2, D] read bilinearly at the places of a glimpse's side^2 tokens."""
    grid = round(patches.shape[1] ** 0.5)
    maps = patches.transpose(1, 2).unflatten(2, (grid, grid))
    places = grid_in_scene(viewpoint, side).flip(-1)[:, :, None]  # torch wants (x, y)
    sampled = F.grid_sample(
        maps, places, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[..., 0].transpose(1, 2)


def head_start(
    batches: Dataset[DistillationBatch], run: Distillation
) -> Iterator[DistillationBatch]:
    """The first batches of a run, until they hold the scenes that statistics are taken over."""
    for step in range(-(-run.statistics_scenes // run.scenes_per_step)):
        yield batches[step]
