"""Passive baselines: what a teacher itself reaches when it sees scenes whole, at several sizes.

A CanViT of its features is to come near it with a fraction of the computation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from canvit_gym.envs.rollout import Precision
from canvit_gym.errors import require_choice
from canvit_gym.model.checkpoints import checkpoint_sha256, load_probe
from canvit_gym.model.segmentation import SegmentationProbe
from canvit_gym.scenes.ade20k import ADE20KScenes
from canvit_gym.scenes.base import Scenes
from canvit_gym.training.ade20k_probe import (
    ADE20KProbeTraining,
    TeacherMaps,
    confusion,
    mean_iou,
    stacked,
)
from canvit_gym.training.batches import in_order
from canvit_gym.training.sources import evenly_spaced, is_ade20k, open_labelled
from canvit_gym.training.teachers.base import Teacher

_IMAGENET_CLASSES = 1000
_TOP = 5
_MASK_SIZE_PX = 512
"""Side of the masks that predictions are compared with, as published."""


@torch.no_grad()
def classify(
    teacher: Teacher,
    classifier: tuple[Tensor, Tensor],
    scenes: Scenes,
    indices: Sequence[int],
    *,
    precision: Precision = "float32",
    batch_size: int = 16,
    workers: int = 0,
    device: torch.device | str = "cpu",
    show: bool = True,
) -> tuple[Tensor, Tensor]:
    """The classes that are most probable in the scenes at these indices, the first one first: int64
    [scenes, 5], or as many as there are; and the labels, int64 [scenes].

    classifier: weight float32 [n_classes, D] and bias [n_classes], which read the teacher's CLS in
    float32. precision: of the teacher. scenes: of the size that it is to see, with labels.
    """
    device = torch.device(device)
    weight, bias = (x.to(device).float() for x in classifier)
    guesses, labels = [], []
    bar = tqdm(total=len(indices), unit="scene", disable=not show)
    for part, batch in in_order(scenes, indices, batch_size=batch_size, workers=workers):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            cls = teacher(batch.pictures.to(device)).cls
        logits = cls.float() @ weight.T + bias
        guesses.append(logits.topk(min(_TOP, len(bias)), dim=1).indices.cpu())
        labels.append(batch.labels)
        bar.update(len(part))
    bar.close()
    return torch.cat(guesses), torch.cat(labels)


@torch.no_grad()
def segment(
    teacher: Teacher,
    probe: SegmentationProbe,
    scenes: Scenes,
    indices: Sequence[int],
    *,
    size_px: int,
    precision: Precision = "float32",
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    show: bool = True,
) -> Tensor:
    """How often each class was predicted for each, in pixels of the masks of the scenes at these
    indices: int64 [true, predicted]. size_px: side at which the teacher sees them."""
    maps = TeacherMaps(teacher, ADE20KProbeTraining(teacher_size_px=size_px, precision=precision))
    counts = torch.zeros(probe.num_classes, probe.num_classes, dtype=torch.int64)
    bar = tqdm(total=len(indices), unit="scene", disable=not show)
    for part in _parts(indices, batch_size):
        pictures, masks = stacked([scenes[index] for index in part])
        for features in maps(pictures.to(device), ()):
            for logits, mask in zip(probe(features), masks.to(device), strict=True):
                # One by one, because logits of all classes at the size of a mask are large.
                full = F.interpolate(logits[None], size=mask.shape, mode="bilinear")
                found = confusion(full.argmax(1)[0], mask.long(), classes=probe.num_classes)
                counts += found.cpu()
        bar.update(len(part))
    bar.close()
    return counts


def measure(
    *,
    teacher: Teacher,
    scenes: str | Path,
    sizes_px: Sequence[int],
    probe: str | Path | None = None,
    limit: int | None = None,
    precision: Precision = "float32",
    batch_size: int = 16,
    workers: int = 0,
    device: str = "cpu",
    show: bool = True,
) -> dict[str, Any]:
    """What `canvit-gym passive` writes, plain JSON values: for each size of the pictures top-1 and
    top-5, or of an ADE20K folder the mean IoU.

    probe: a linear probe of the teacher's CLS, or a segmentation probe of its patches; None for the
    classifier that the teacher brings. limit: at most so many scenes, evenly spaced.

    Raises ValueError or OSError, in one sentence and before anything is measured, where there is no
    classifier, it does not fit the teacher or the scenes, or there are no scenes.
    """
    require_choice("precision", precision, get_args(Precision))
    for size in sizes_px:
        teacher.patch_grid(size)
    rows: list[dict[str, Any]] = []
    if is_ade20k(scenes):
        reading = _segmentation_probe(probe, teacher, device=device)
        masked = ADE20KScenes(scenes, split="test", size_px=_MASK_SIZE_PX)
        if reading.num_classes != len(masked.mask_class_names):
            raise ValueError(
                f"The probe tells {reading.num_classes} classes apart, but {scenes} has "
                f"{len(masked.mask_class_names)}; choose a probe of these."
            )
        indices = evenly_spaced(len(masked), limit)
        for size in sizes_px:
            counts = segment(
                teacher,
                reading,
                masked,
                indices,
                size_px=size,
                precision=precision,
                batch_size=batch_size,
                device=device,
                show=show,
            )
            if not counts.any():
                raise ValueError(
                    f"None of the {len(indices)} masks has a labelled pixel; give more."
                )
            rows.append({"picture_size_px": size, "miou": mean_iou(counts)})
    else:
        classifier = _classifier(probe, teacher)
        sources = [_open_classes(scenes, size, len(classifier[1])) for size in sizes_px]
        indices = evenly_spaced(len(sources[0]), limit)
        for size, source in zip(sizes_px, sources, strict=True):
            guesses, labels = classify(
                teacher,
                classifier,
                source,
                indices,
                precision=precision,
                batch_size=batch_size,
                workers=workers,
                device=device,
                show=show,
            )
            right = (guesses == labels[:, None]).double()
            top1, top5 = float(right[:, 0].mean()), float(right.sum(1).mean())
            rows.append({"picture_size_px": size, "top1": top1, "top5": top5})
    return {
        "teacher": teacher.name,
        "probe": None if probe is None else str(probe),
        "probe_sha256": None if probe is None else checkpoint_sha256(probe),
        "scenes": str(scenes),
        "num_scenes": len(indices),
        "precision": precision,
        "sizes": rows,
    }


def _classifier(probe: str | Path | None, teacher: Teacher) -> tuple[Tensor, Tensor]:
    """The classes that `passive` reads; ValueError where there are none, or of another teacher."""
    classifier = teacher.classifier if probe is None else load_probe(probe)
    if classifier is None:
        raise ValueError(
            f"{teacher.name} brings no classifier; give a linear probe of its CLS as --probe."
        )
    if (width := classifier[0].shape[1]) != teacher.dim:
        raise ValueError(
            f"The probe reads features of width {width}, but those of {teacher.name} have "
            f"{teacher.dim}; give a probe of this teacher."
        )
    return classifier


def _segmentation_probe(
    probe: str | Path | None, teacher: Teacher, *, device: str
) -> SegmentationProbe:
    if probe is None:
        raise ValueError(
            "An ADE20K folder needs a segmentation probe of the teacher's patches; train one with "
            "`canvit-gym probe`, and give it as --probe."
        )
    reading = SegmentationProbe.from_pretrained(probe, device=device)
    if reading.embed_dim != teacher.dim:
        raise ValueError(
            f"The probe reads features of width {reading.embed_dim}, but those of {teacher.name} "
            f"have {teacher.dim}; give a probe of this teacher."
        )
    return reading


def _open_classes(scenes: str | Path, size_px: int, n_classes: int) -> Scenes:
    """Scenes with labels of as many classes; with 1000, these are ImageNet's."""
    is_imagenet = n_classes == _IMAGENET_CLASSES
    source = open_labelled(scenes, size_px=size_px, imagenet=is_imagenet)
    if not is_imagenet and len(source.class_names) != n_classes:
        raise ValueError(
            f"{scenes} has {len(source.class_names)} classes, but the classifier tells {n_classes} "
            "apart; choose a probe of these classes."
        )
    return source


def _parts(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
