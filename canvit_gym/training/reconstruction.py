"""Reconstruction: how closely a pretrained CanViT predicts, after every glimpse, what its teacher
sees in the whole scene.

It is the measure of the paper's pretraining ablations: cosine similarity of each feature, averaged
over patches and then over scenes. "standardized" compares where predictions were fitted, and where
the paper reports; "raw" compares predictions in the teacher's own scale with what the teacher gave.
Tools before canvit-pytorch 0.2 compared standardised predictions with raw features under that name,
so their raw figures are too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from canvit_gym.envs.backbones import Looks, looks_of
from canvit_gym.envs.rollout import Precision
from canvit_gym.errors import require_choice, require_int
from canvit_gym.geometry import Viewpoint, random_viewpoint, sample_at_viewpoint
from canvit_gym.model.canvit import RecurrentState
from canvit_gym.model.checkpoints import checkpoint_sha256, training_record
from canvit_gym.model.heads import CanViTForPretraining
from canvit_gym.scenes.base import Scenes
from canvit_gym.training.batches import in_order
from canvit_gym.training.common import generator_for
from canvit_gym.training.rollouts import scenes_of
from canvit_gym.training.sources import evenly_spaced, open_dense
from canvit_gym.training.teachers.base import Teacher, TeacherFeatures


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How reconstruction is measured; the defaults are the paper's, but for its bfloat16.

    picture_size_px: side of the pictures that the teacher sees, and scenes are made of.
    num_glimpses: all R-IID. Raises ValueError where a value is out of range.
    """

    looks: Looks
    picture_size_px: int
    num_glimpses: int = 10
    seed: int = 0
    precision: Precision = "float32"
    """Of the CanViT; the teacher is float32 in any case."""

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, get_args(Precision))
        for name in ("picture_size_px", "num_glimpses"):
            require_int(name, getattr(self, name), at_least=1)
        require_int("seed", self.seed, at_least=0)
        if self.looks.scene_size_px > self.picture_size_px:
            raise ValueError(
                f"picture_size_px is {self.picture_size_px}, but this CanViT looks at scenes of "
                f"{self.looks.scene_size_px} px, which are made of pictures; give at least as many."
            )


def cosines(
    model: CanViTForPretraining, state: RecurrentState, features: TeacherFeatures
) -> dict[str, Tensor]:
    """Cosine similarities of what is predicted from a state and the teacher's features of the
    scenes: float32 [B], by name."""
    patches, cls = features.patches, features.cls[:, None]
    found = {}
    for name, predicted, true, standardizer in (
        ("patch", model.predict_teacher_patches(state), patches, model.teacher_patch_standardizer),
        ("cls", model.predict_teacher_cls(state)[:, None], cls, model.teacher_cls_standardizer),
    ):
        for kind, ours, theirs in (
            ("standardized", predicted, standardizer(true)),
            ("raw", standardizer.destandardize(predicted), true),
        ):
            found[f"{name}_cos_{kind}"] = F.cosine_similarity(ours, theirs, dim=-1).mean(1)
    return found


def random_views(
    indices: Sequence[int], *, num_glimpses: int, min_scale: float, seed: int
) -> list[Viewpoint]:
    """R-IID viewpoints of the scenes at these indices, for each glimpse one batch; each scene's
    depend on (seed, index) alone, so that batches change nothing."""
    drawn = [
        random_viewpoint(
            batch_size=num_glimpses,
            min_scale=min_scale,
            generator=generator_for("viewpoints", seed=seed, step=index),
        )
        for index in indices
    ]
    centers = torch.stack([views.centers for views in drawn], dim=1)
    scales = torch.stack([views.scales for views in drawn], dim=1)
    return [Viewpoint(centers=c, scales=s) for c, s in zip(centers, scales, strict=True)]


def require_same_features(
    model: CanViTForPretraining, teacher: Teacher, *, picture_size_px: int
) -> None:
    """Raise ValueError unless the model predicts features of this teacher's width and grid, and
    has statistics of them."""
    if teacher.dim != model.teacher_dim:
        raise ValueError(
            f"The checkpoint predicts features of width {model.teacher_dim}, but those of "
            f"{teacher.name} have {teacher.dim}; name the teacher that it was trained with."
        )
    if (grid := teacher.patch_grid(picture_size_px)) != model.teacher_patch_grid:
        raise ValueError(
            f"The checkpoint predicts {model.teacher_patch_grid} x {model.teacher_patch_grid} "
            f"patches, but {teacher.name} sees a picture of {picture_size_px} px as "
            f"{grid} x {grid}; give another picture size."
        )
    for standardizer in (model.teacher_patch_standardizer, model.teacher_cls_standardizer):
        if not bool(standardizer.fitted):
            raise ValueError(
                "The checkpoint has no statistics of its teacher's features; train it first."
            )


@torch.no_grad()
def reconstruct(
    model: CanViTForPretraining,
    teacher: Teacher,
    scenes: Scenes,
    indices: Sequence[int],
    *,
    how: Reconstruction,
    batch_size: int = 16,
    workers: int = 0,
    device: torch.device | str = "cpu",
    show: bool = True,
) -> dict[str, Tensor]:
    """Cosine similarities after each glimpse of the scenes at these indices: float32
    [scenes, num_glimpses], by name.

    model and teacher: on `device`, in eval mode. workers: processes that prepare pictures.
    Raises ValueError where the teacher is another than the model's.
    """
    require_same_features(model, teacher, picture_size_px=scenes.size_px)
    device, looks = torch.device(device), how.looks
    found: dict[str, list[Tensor]] = {}
    bar = tqdm(total=len(indices), unit="scene", disable=not show)
    for part, batch in in_order(scenes, indices, batch_size=batch_size, workers=workers):
        with torch.autocast(device.type, enabled=False):
            features = teacher(batch.pictures.to(device))
        inputs = scenes_of(batch.pictures, size_px=looks.scene_size_px, device=device)
        state = model.init_state(batch_size=len(inputs), canvas_grid_size=model.teacher_patch_grid)
        after: dict[str, list[Tensor]] = {}
        for viewpoint in random_views(
            part, num_glimpses=how.num_glimpses, min_scale=looks.glimpse.min_scale, seed=how.seed
        ):
            viewpoint = viewpoint.to(device)
            glimpse = sample_at_viewpoint(
                spatial=inputs, viewpoint=viewpoint, glimpse_size_px=looks.glimpse.glimpse_size_px
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=how.precision == "bfloat16"):
                state = model(glimpse=glimpse, state=state, viewpoint=viewpoint).state
            for name, values in cosines(model, state, features).items():
                after.setdefault(name, []).append(values.cpu())
        for name, columns in after.items():
            found.setdefault(name, []).append(torch.stack(columns, dim=1))
        bar.update(len(part))
    bar.close()
    return {name: torch.cat(parts) for name, parts in found.items()}


def measure(
    *,
    checkpoint: str | Path,
    teacher: Teacher,
    scenes: str | Path,
    num_glimpses: int = 10,
    picture_size_px: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    batch_size: int = 16,
    workers: int = 0,
    device: str = "cpu",
    show: bool = True,
) -> dict[str, Any]:
    """What `canvit-gym reconstruct` writes: the mean over scenes after each glimpse, its standard
    error, and what was measured; plain JSON values.

    checkpoint: looked at as the training that it records did, or as the published ones.
    picture_size_px: None for that of its training. limit: at most so many scenes, evenly spaced.

    Raises ValueError or OSError, in one sentence, where the checkpoint has no readouts, the teacher
    is another than its own, or there are no scenes.
    """
    model = CanViTForPretraining.from_pretrained(checkpoint, device=device)
    looks = looks_of(checkpoint)
    size = picture_size_px or training_record(checkpoint).get(
        "picture_size_px", looks.scene_size_px
    )
    how = Reconstruction(
        looks=looks,
        picture_size_px=size,
        num_glimpses=num_glimpses,
        seed=seed,
        precision=precision,
    )
    require_same_features(model, teacher, picture_size_px=size)
    source = open_dense(scenes, size_px=size)
    indices = evenly_spaced(len(source), limit)
    found = reconstruct(
        model,
        teacher,
        source,
        indices,
        how=how,
        batch_size=batch_size,
        workers=workers,
        device=device,
        show=show,
    )
    count = len(indices)
    return {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": checkpoint_sha256(checkpoint),
        "teacher": teacher.name,
        "scenes": str(scenes),
        "num_scenes": count,
        "policy": "random",
        "num_glimpses": num_glimpses,
        "seed": seed,
        "precision": precision,
        "picture_size_px": size,
        "scene_size_px": looks.scene_size_px,
        "glimpse_size_px": looks.glimpse.glimpse_size_px,
        "canvas_grid_size": model.teacher_patch_grid,
        "min_scale": looks.glimpse.min_scale,
        "mean": {name: values.double().mean(0).tolist() for name, values in found.items()},
        "standard_error": {
            name: (values.double().std(0) / count**0.5).tolist() if count > 1 else None
            for name, values in found.items()
        },
    }
