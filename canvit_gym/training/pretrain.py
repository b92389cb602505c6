"""Runs of distillation: what `canvit-gym pretrain` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from canvit_gym.model.heads import CanViTForPretraining
from canvit_gym.scenes.base import Scenes
from canvit_gym.scenes.stored import StoredScenes
from canvit_gym.training.batches import (
    DistillationBatch,
    FeatureBatches,
    SceneBatches,
    batch_of,
    feature_batch,
    held_out_indices,
)
from canvit_gym.training.common import compile_core
from canvit_gym.training.distill import Distillation, DistillationObjective, head_start
from canvit_gym.training.features import FeatureShards
from canvit_gym.training.loop import Loop, Pace
from canvit_gym.training.processes import Processes
from canvit_gym.training.sources import open_judged, open_scenes
from canvit_gym.training.teachers import Teacher, load_teacher

_LOG_EVERY = 20


def pretrain(
    run: Distillation,
    *,
    scenes: str | Path | Scenes,
    teacher: str | Teacher,
    out: Path,
    features: str | Path | None = None,
    validation: str | Path | Scenes | None = None,
    init: str | Path | None = None,
    device: str = "cpu",
    workers: int = 1,
    compile_model: bool = False,
    processes: Processes | None = None,
    show: bool = True,
) -> CanViTForPretraining:
    """Train, and leave the checkpoint in `out`; continues a run that `out` holds.

    scenes: a source of pictures, "emoji", or a folder; their labels matter to label_loss alone.
    teacher: by name, or one in memory. features: the directory of an export of the teacher's
    features of these pictures, so that it is not asked again. validation: other scenes to validate
    on; some of `scenes` are held out by default. init: a checkpoint whose weights the run begins
    with. workers: processes that prepare batches. compile_model: whether torch.compile makes the
    core faster.

    Raises ValueError or OSError, before anything is trained, where settings do not fit, names lead
    nowhere or `out` can not be written to; TrainingDiverged where losses are no longer finite.
    """
    processes = processes or Processes()
    processes.share(run.scenes_per_step)
    size = run.picture_size_px
    source = scenes if not isinstance(scenes, str | Path) else open_scenes(scenes, size_px=size)
    seeing = teacher if not isinstance(teacher, str) else load_teacher(teacher, device=device)
    if (grid := seeing.patch_grid(size)) != run.canvas_grid_size:
        raise ValueError(
            f"The teacher sees pictures of {size} px in {grid} cells a side, but canvas_grid_size "
            f"is {run.canvas_grid_size}; make them agree."
        )
    shards = None if features is None else _open_features(features, source, seeing, run)
    if shards is None:
        chosen, held_out = _hold_out(source, run, validation)
    else:
        chosen, held_out = _hold_out_rows(shards, source, run, validation)
    if held_out is not None and held_out.patches is None:
        held_out = _with_features(held_out, seeing, run, device=device)
    torch.manual_seed(run.seed)
    made_of = {
        "scenes": str(scenes) if isinstance(scenes, str | Path) else type(scenes).__name__,
        "teacher": seeing.name,
        "init": None if init is None else str(init),
    }
    objective = DistillationObjective(
        run,
        teacher_dim=seeing.dim,
        teacher=seeing,
        classifier=seeing.classifier,
        validation=held_out,
        record=made_of,
        device=device,
        processes=processes,
    )
    batches: Dataset[DistillationBatch]
    every_scene: Dataset[DistillationBatch]
    if shards is None:
        batches = SceneBatches(source, chosen, run=run, processes=processes)
        every_scene = SceneBatches(source, chosen, run=run)
    else:
        # The teacher has seen them: the student's size is read at once.
        small = _resized(scenes, source, size_px=run.scene_size_px)
        batches = FeatureBatches(small, shards, chosen, run=run, processes=processes)
        every_scene = FeatureBatches(small, shards, chosen, run=run)
    train(
        objective,
        batches,
        every_scene=every_scene,
        made_of=made_of,
        out=out,
        init=init,
        workers=workers,
        compile_model=compile_model,
        show=show,
    )
    return objective.kept


def train(
    objective: DistillationObjective,
    batches: Dataset[DistillationBatch],
    *,
    every_scene: Dataset[DistillationBatch] | None = None,
    made_of: dict[str, Any],
    out: Path,
    init: str | Path | None = None,
    workers: int = 1,
    compile_model: bool = False,
    show: bool = True,
) -> None:
    """Run an objective over batches, of whatever source; see `pretrain`.

    every_scene: batches that are not shared among processes, for statistics. made_of: what the run
    was made of beside its settings, plain values; a run to continue must have the same.
    """
    run = objective.run
    loop = Loop(
        objective,
        batches,
        pace=Pace(
            steps=run.steps,
            save_every=run.save_every,
            log_every=_LOG_EVERY,
            validate_every=run.validate_every if objective.validation is not None else None,
            validate_first=True,
        ),
        settings={**asdict(run), **made_of},
        out=out,
        device=objective.device,
        workers=workers,
        processes=objective.processes,
        show=show,
    )
    if not loop.restore():
        if init is not None:
            begin_with(objective.kept, CanViTForPretraining.from_pretrained(init))
        elif run.init_from_teacher:
            begin_with_teacher(objective.kept, objective.teacher)
        if objective.processes.is_first and not objective.is_fitted:
            objective.fit_standardizers(
                head_start(batches if every_scene is None else every_scene, run)
            )
    if compile_model:
        compile_core(objective.kept.canvit)
    loop.run()


def begin_with(model: CanViTForPretraining, other: CanViTForPretraining) -> None:
    """Take over another model's weights, and its statistics where they are of the same positions.

    Raises ValueError where its architecture or the width of its teacher differs.
    """
    for name, ours, theirs in (
        ("an architecture", model.canvit.config, other.canvit.config),
        ("a teacher of a width", model.teacher_dim, other.teacher_dim),
    ):
        if ours != theirs:
            raise ValueError(
                f"init has {name} of {theirs}, but this run has {ours}; give the same settings as "
                "that run had."
            )
    state = other.state_dict()
    if model.teacher_patch_grid != other.teacher_patch_grid:
        state = {name: x for name, x in state.items() if "standardizer" not in name}
    model.load_state_dict(state, strict=False)


def begin_with_teacher(model: CanViTForPretraining, teacher: Teacher | None) -> None:
    """Take over the teacher's blocks and, where patches have the same size, its patch embedding;
    the canvas, the viewpoint's encoding and the readouts stay as they are.

    Raises ValueError where the teacher has no such blocks, or of another size.
    """
    give = getattr(teacher, "backbone_weights", None)
    name = "the teacher" if teacher is None else teacher.name
    if give is None:
        raise ValueError(
            f"init_from_teacher is true, but {name} has no blocks that a CanViT could take over; "
            "choose a DINOv3, or give init_from_teacher=false."
        )
    backbone = model.canvit.get_submodule("backbone")
    own, theirs = backbone.state_dict(), give()
    if theirs["patch_embed.proj.weight"].shape[-1] != own["patch_embed.proj.weight"].shape[-1]:
        theirs |= {key: own[key] for key in own if key.startswith("patch_embed.")}
    wrong = [key for key in {**own, **theirs} if key not in own or key not in theirs
             or own[key].shape != theirs[key].shape]  # fmt: skip
    if wrong:
        raise ValueError(
            f"init_from_teacher is true, but {name} has blocks of another number or size "
            f"({len(wrong)} tensors differ, first {wrong[0]}); choose a teacher of the size of "
            f"{model.canvit.config.backbone_name}."
        )
    backbone.load_state_dict(theirs)


def _hold_out(
    scenes: Scenes, run: Distillation, validation: str | Path | Scenes | None
) -> tuple[Sequence[int], DistillationBatch | None]:
    """Indices of the scenes to train on, and the scenes to validate on."""
    if not run.validation_scenes:
        return range(len(scenes)), None
    others = (
        open_judged(validation, size_px=run.picture_size_px)
        if isinstance(validation, str | Path)
        else validation
    )
    chosen, judged = held_out_indices(scenes, others, count=run.validation_scenes, seed=run.seed)
    return chosen, batch_of(scenes if others is None else others, judged)


def _open_features(
    directory: str | Path, scenes: Scenes, teacher: Teacher, run: Distillation
) -> FeatureShards:
    """The features of an export; ValueError unless they are this teacher's, of these pictures."""
    shards = FeatureShards(directory)
    for what, found, wanted in (
        ("teacher", shards.teacher, teacher.name),
        ("picture_size_px", shards.picture_size_px, run.picture_size_px),
    ):
        if found != wanted:
            raise ValueError(
                f"{directory} holds features with {what} {found}, but this run has {wanted}; give "
                "that, or export others."
            )
    if not isinstance(scenes, StoredScenes):
        raise ValueError(
            f"Exported features are of stored pictures, but scenes is a {type(scenes).__name__}; "
            "give the folder that they were exported from."
        )
    shards.require_same_pictures(scenes)
    return shards


def _hold_out_rows(
    shards: FeatureShards,
    scenes: Scenes,
    run: Distillation,
    validation: str | Path | Scenes | None,
) -> tuple[Sequence[int], DistillationBatch | None]:
    """Rows of the features to train on, and the scenes to validate on: the last rows, for their
    order is shuffled, unless there are others."""
    rows: list[int] = (~shards.failed).nonzero()[:, 0].tolist()
    count = run.validation_scenes
    if validation is not None or not count:
        return rows, _hold_out(scenes, run, validation)[1]
    if len(rows) <= count:
        raise ValueError(
            f"There are features of {len(rows)} scenes, but validation_scenes is {count}; hold out "
            "fewer, so that some are left to train on."
        )
    return rows[:-count], feature_batch(scenes, shards, rows[-count:])


def _with_features(
    batch: DistillationBatch, teacher: Teacher, run: Distillation, *, device: str
) -> DistillationBatch:
    """The batch with what the teacher sees in it, so that it is asked once."""
    found = []
    for pictures in batch.pictures.split(run.scenes_per_step):
        with torch.autocast(
            torch.device(device).type, torch.bfloat16, enabled=run.precision == "bfloat16"
        ):
            found.append(teacher(pictures.to(device)))
    return batch._replace(
        patches=torch.cat([features.patches.cpu() for features in found]),
        cls=torch.cat([features.cls.cpu() for features in found]),
    )


def _resized(scenes: str | Path | Scenes, opened: Scenes, *, size_px: int) -> Scenes:
    """The scenes with pictures of another size, where they are given by name."""
    if isinstance(scenes, str | Path) and opened.size_px != size_px:
        return open_scenes(scenes, size_px=size_px)
    return opened
