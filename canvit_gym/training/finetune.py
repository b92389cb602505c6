"""Fine-tuning on labelled scenes, after a linear probe was fused in (LP-FT).

The classifier begins as what a probe of the teacher makes of the predicted CLS, so its first loss
is already that of a good classifier; then everything is trained on the cross-entropy after each
glimpse.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from canvit_gym.envs.rollout import Precision
from canvit_gym.errors import require_choice, require_int, require_number
from canvit_gym.geometry import Viewpoint, sample_at_viewpoint
from canvit_gym.model.checkpoints import load_model
from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining
from canvit_gym.scenes.base import Scenes
from canvit_gym.training.batches import SceneBatches, batch_of, held_out_indices
from canvit_gym.training.common import compile_core, generator_for
from canvit_gym.training.loop import Figures, Finished, Loop, Pace
from canvit_gym.training.processes import Processes
from canvit_gym.training.rollouts import coarse_to_fine, draw_viewpoint, scenes_of
from canvit_gym.training.schedules import half_cosine, warmup
from canvit_gym.training.sources import open_judged, open_scenes

ValidationPolicy = Literal["full_then_random", "coarse_to_fine"]

_LOG_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """A fine-tuning run: everything that decides its outcome but scenes and checkpoints.

    The defaults are the published recipe on ImageNet-1k, its TPU column. Raises ValueError where a
    value is out of range or does not fit the others.
    """

    steps: int = 100_080
    scenes_per_step: int = 256
    seed: int = 0

    scene_size_px: int = 512
    glimpse_size_px: int = 128
    canvas_grid_size: int = 32
    min_scale: float = 0.05
    flip: bool = True
    crop_area: float = 0.2
    """Smallest share of a picture's area that a random crop of it shows. Crops are of whole
    pictures where these are stored, else of scenes."""

    num_glimpses: int = 4
    full_scene_share: float = 1.0
    """Share of the rollouts that begin with the full scene; all other glimpses are R-IID."""
    chunk_glimpses: int = 4
    """Gradients flow through as many glimpses."""
    label_smoothing: float = 0.1

    lr: float = 2.5e-5
    """Peak: it rises linearly from 0, then falls to 0 along a cosine over the steps that are left.
    """
    warmup_steps: int = 25_000
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    precision: Precision = "float32"

    validate_every: int = 5004
    validation_scenes: int = 50_000
    """At most; where scenes to validate on are not given, as many are held out."""
    validation_policy: ValidationPolicy = "full_then_random"
    save_every: int = 200

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, get_args(Precision))
        require_choice("validation_policy", self.validation_policy, get_args(ValidationPolicy))
        for name in (
            "steps", "scenes_per_step", "scene_size_px", "glimpse_size_px", "canvas_grid_size",
            "num_glimpses", "chunk_glimpses", "validate_every", "validation_scenes", "save_every",
        ):  # fmt: skip
            require_int(name, getattr(self, name), at_least=1)
        for name in ("seed", "warmup_steps"):
            require_int(name, getattr(self, name), at_least=0)
        for name in ("lr", "weight_decay", "clip_norm"):
            require_number(name, getattr(self, name), at_least=0)
        for name, low in (("min_scale", 0.001), ("crop_area", 0.001), ("full_scene_share", 0.0)):
            if not low <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give {low} to 1.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; give 0 to below 1.")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} and steps {self.steps}; give fewer than "
                "steps."
            )

    @property
    def picture_size_px(self) -> int:
        return self.scene_size_px


class _Parts(Dataset[tuple[Tensor, Tensor]]):
    """Pictures and labels of scenes, some at a time, as they are."""

    def __init__(self, scenes: Scenes, indices: Sequence[int], *, size: int) -> None:
        self.scenes, self.indices, self.size = scenes, indices, size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.size)

    def __getitem__(self, part: int) -> tuple[Tensor, Tensor]:
        batch = batch_of(self.scenes, self.indices[part * self.size : (part + 1) * self.size])
        return batch.pictures, batch.labels


class FineTuningObjective:
    """Objective of `loop.Loop`: see `FineTuning`."""

    headline: str | None = "top1"

    def __init__(
        self,
        run: FineTuning,
        model: CanViTForImageClassification,
        *,
        validation: tuple[Scenes, Sequence[int]],
        record: dict[str, Any] | None = None,
        workers: int = 0,
        processes: Processes | None = None,
    ) -> None:
        """model: trained in place, on the device where it is. validation: scenes that are not
        trained on, and which of them. record: what the checkpoint is to say about its making,
        beside the settings. workers: processes that prepare scenes to validate on."""
        self.run, self.model = run, model.train()
        self.validation, self.workers = validation, workers
        self.record, self.processes = record or {}, processes or Processes()
        self.device = next(model.parameters()).device
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(model.parameters(), lr=run.lr, weight_decay=run.weight_decay)
        }
        self.clip_norm: float | None = run.clip_norm
        self.clipped: Sequence[Tensor] = list(model.parameters())

    def learning_rate_factor(self, step: int) -> float:
        run = self.run
        if step < run.warmup_steps:
            return warmup(step, steps=run.warmup_steps, start=0.0)
        return half_cosine((step - run.warmup_steps) / (run.steps - run.warmup_steps))

    def backward(self, batch: Any, *, step: int) -> dict[str, Tensor]:
        if bool((batch.labels < 0).any()):
            raise ValueError("Some scenes have no label; fine-tune on labelled ones alone.")
        run = self.run
        scenes = scenes_of(batch.pictures, size_px=run.scene_size_px, device=self.device)
        labels = batch.labels.to(self.device, non_blocking=True)
        state = self.model.init_state(batch_size=len(scenes), canvas_grid_size=run.canvas_grid_size)
        chunk = torch.zeros((), device=self.device)
        total = torch.zeros((), device=self.device)
        for t, viewpoint in enumerate(self.rollout(step), start=1):
            with self._autocast():
                logits, state = self.model(
                    glimpse=self._glimpse(scenes, viewpoint),
                    state=state,
                    viewpoint=viewpoint.to(self.device),
                )
            loss = F.cross_entropy(logits, labels, label_smoothing=run.label_smoothing)
            chunk = chunk + loss / run.num_glimpses
            if t % run.chunk_glimpses == 0 or t == run.num_glimpses:
                chunk.backward()
                total += chunk.detach()
                chunk = torch.zeros((), device=self.device)
                state = state.detach()
        right = (logits.detach().argmax(1) == labels).float().mean()
        return {"loss": total, "accuracy": right}

    def rollout(self, step: int) -> list[Viewpoint]:
        """A step's viewpoints, of this process's scenes, which (seed, step) decides."""
        run = self.run
        generator = generator_for("viewpoints", seed=run.seed, step=step)
        share = self.processes.share(run.scenes_per_step)
        return [
            draw_viewpoint(
                run.scenes_per_step,
                min_scale=run.min_scale,
                full_share=run.full_scene_share if t == 0 else 0.0,
                generator=generator,
            )[share]
            for t in range(run.num_glimpses)
        ]

    @torch.no_grad()
    def validate(self) -> Figures:
        """Top-1 and top-5 accuracy after each glimpse."""
        run = self.run
        scenes, indices = self.validation
        loader = DataLoader(
            _Parts(scenes, indices, size=run.scenes_per_step),
            batch_size=None,
            num_workers=self.workers,
        )
        generator = generator_for("held out", seed=run.seed, step=1)
        right = torch.zeros(2, run.num_glimpses, dtype=torch.int64)
        self.model.eval()
        for pictures, labels in loader:
            right += self._right(pictures, labels, generator=generator).cpu()
        self.model.train()
        top1, top5 = (right / len(indices)).tolist()
        return {"top1": top1, "top5": top5}

    def _right(self, pictures: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """How many are right after each glimpse, int64 [2, glimpses]: first, and among five."""
        run, count = self.run, len(labels)
        scenes = scenes_of(pictures, size_px=run.scene_size_px, device=self.device)
        labels = labels.to(self.device)
        state = self.model.init_state(batch_size=count, canvas_grid_size=run.canvas_grid_size)
        if run.validation_policy == "coarse_to_fine":
            views = coarse_to_fine(count, num_glimpses=run.num_glimpses, generator=generator)
        else:
            views = [
                draw_viewpoint(
                    count,
                    min_scale=run.min_scale,
                    full_share=float(t == 0),
                    generator=generator,
                )
                for t in range(run.num_glimpses)
            ]
        found = []
        for viewpoint in views:
            with self._autocast():
                logits, state = self.model(
                    glimpse=self._glimpse(scenes, viewpoint),
                    state=state,
                    viewpoint=viewpoint.to(self.device),
                )
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            found.append(torch.stack((best[:, 0].sum(), best.any(1).sum())))
        return torch.stack(found, dim=1)

    def save(self, out: Path, finished: Finished) -> None:
        record = {
            **asdict(self.run),
            **self.record,
            "selected_step": finished.step,
            "seconds": finished.seconds,
            "validation": finished.figures,
        }
        self.model.save_pretrained(out, extra_config={"training": record})

    def _glimpse(self, scenes: Tensor, viewpoint: Viewpoint) -> Tensor:
        return sample_at_viewpoint(
            spatial=scenes,
            viewpoint=viewpoint.to(self.device),
            glimpse_size_px=self.run.glimpse_size_px,
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self.run.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


def load_start(
    init: str | Path, probe: str | Path | None, *, device: str
) -> CanViTForImageClassification:
    """What fine-tuning begins with: a pretrained checkpoint with a linear probe of its teacher
    fused in, or, without a probe, a classifier.

    Raises CheckpointNotFound, InvalidCheckpoint, or ValueError where the two do not fit.
    """
    if probe is not None:
        return CanViTForImageClassification.from_pretrained_with_probe(init, probe, device=device)
    model = load_model((CanViTForImageClassification, CanViTForPretraining), init, device=device)
    if isinstance(model, CanViTForPretraining):
        raise ValueError(
            f"{init} predicts a teacher's features and names no classes; give a linear probe of "
            "that teacher with --probe."
        )
    assert isinstance(model, CanViTForImageClassification)
    return model


def finetune(
    run: FineTuning,
    *,
    init: str | Path,
    probe: str | Path | None,
    scenes: str | Path | Scenes,
    out: Path,
    validation: str | Path | Scenes | None = None,
    device: str = "cpu",
    workers: int = 1,
    compile_model: bool = False,
    processes: Processes | None = None,
    show: bool = True,
) -> CanViTForImageClassification:
    """Train, and leave the classifier of the best validation in `out`; continues a run there.

    init, probe: what it begins with (`load_start`). scenes: labelled ones, a source or a folder.
    validation: other scenes to validate on; some of `scenes` are held out by default.

    Raises ValueError or OSError, before anything is trained, where settings do not fit, names lead
    nowhere or `out` can not be written to; TrainingDiverged where losses are no longer finite.
    """
    processes = processes or Processes()
    processes.share(run.scenes_per_step)
    model = load_start(init, probe, device=device)
    size = run.scene_size_px
    source = open_scenes(scenes, size_px=size) if isinstance(scenes, str | Path) else scenes
    others = validation
    if isinstance(others, str | Path):
        others = open_judged(others, size_px=size)
    for opened in (source, others):
        if opened is not None and len(opened.class_names) != model.n_classes:
            raise ValueError(
                f"The classifier names {model.n_classes} classes but the scenes have "
                f"{len(opened.class_names)}; choose scenes of the probe's classes."
            )
    chosen, judged = held_out_indices(source, others, count=run.validation_scenes, seed=run.seed)
    made_of = {
        "init": str(init),
        "probe": None if probe is None else str(probe),
        "scenes": str(scenes) if isinstance(scenes, str | Path) else type(scenes).__name__,
    }
    objective = FineTuningObjective(
        run,
        model,
        validation=(source if others is None else others, judged),
        record=made_of,
        workers=workers,
        processes=processes,
    )
    loop = Loop(
        objective,
        SceneBatches(source, chosen, run=run, processes=processes, whole=True),
        pace=Pace(
            steps=run.steps,
            save_every=run.save_every,
            log_every=min(_LOG_EVERY, run.save_every),
            validate_every=run.validate_every,
            validate_first=True,
        ),
        settings={**asdict(run), **made_of},
        out=out,
        device=device,
        workers=workers,
        processes=processes,
        show=show,
    )
    loop.restore()
    if compile_model:
        compile_core(model.canvit)
    loop.run()
    return model
