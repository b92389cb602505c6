"""Train the embedded mini CanViT on generated scenes: `canvit-gym pretrain --preset mini`.

Fresh scenes at every step, short rollouts of glimpses, and three questions after each glimpse:
which animal is it (recurrent CLS), what is at each canvas cell (canvas), and what is under each
patch of the glimpse (glimpse tokens; this one is what makes a small ViT start to learn). The
viewpoints are random, with a bias toward objects, and follow no policy. Muon for matrices, AdamW
for the rest. A run saves as it goes and continues where it stopped; scenes and viewpoints are
functions of (seed, step), so a continued run sees what an unbroken one would have seen.
`python -m canvit_gym.training.mini` measures a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from canvit_gym.geometry import (
    MINI_GLIMPSE,
    Viewpoint,
    clip_into_scene,
    grid_centers,
    grid_in_scene,
    random_viewpoint,
    sample_at_viewpoint,
)
from canvit_gym.model.canvit import RecurrentState
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.preprocess import normalize
from canvit_gym.scenes.base import Box, Scenes
from canvit_gym.scenes.emoji import FIRST_STUFF, EmojiScenes, Split
from canvit_gym.training.common import compile_core, grid_labels, mask_at
from canvit_gym.training.loop import Figures, Finished, Loop, Pace
from canvit_gym.training.muon import Muon

MINI_CONFIG = CanViTConfig(
    backbone_name="mini8",
    canvas_num_heads=4,
    canvas_head_dim=32,
    num_canvas_registers=4,
    num_backbone_registers=2,
)

SAVE_EVERY = 100
"""Steps between snapshots of a run."""


@dataclass(frozen=True, kw_only=True)
class MiniTraining:
    """One training run; everything that decides its outcome."""

    steps: int = 3400
    scenes_per_step: int = 64
    seed: int = 0
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    warmup_steps: int = 50
    decay_steps: int = 1400
    """How many steps, at the end, let the learning rates fall linearly to zero."""
    short_steps: int = 780
    """How many steps, at the start, have rollouts of two glimpses; then three to five."""


class SceneBatch(NamedTuple):
    """pictures uint8 [B, H, W, 3]; masks uint8 [B, H, W]; labels int64 [B]; box centres in the
    scene frame, float32: all objects' [B, objects, 2] and the target's [B, 2]."""

    pictures: Tensor
    masks: Tensor
    labels: Tensor
    object_centers: Tensor
    target_centers: Tensor


def collate(scenes: Scenes, indices: range) -> SceneBatch:
    """The scenes at these indices, which must have masks and objects, as one batch."""
    batch = [scenes[i] for i in indices]
    size = scenes.size_px
    targets = [s.target for s in batch if s.target is not None]
    masks = [s.mask for s in batch if s.mask is not None]
    centers = [[_center(o.box, size) for o in s.objects] for s in batch]
    return SceneBatch(
        pictures=torch.from_numpy(np.stack([s.picture for s in batch])),
        masks=torch.from_numpy(np.stack(masks)),
        labels=torch.tensor([s.label for s in batch]),
        object_centers=torch.tensor(centers),
        target_centers=torch.tensor([_center(box, size) for box in targets]),
    )


def _center(box: Box, size_px: int) -> tuple[float, float]:
    return (box.top + box.bottom) / size_px - 1, (box.left + box.right) / size_px - 1


class _Batches(Dataset[SceneBatch]):
    """Batch i holds scenes i * n .. i * n + n - 1 of the backbone's own split."""

    def __init__(self, scenes_per_step: int, steps: int) -> None:
        self.scenes, self.n, self.steps = EmojiScenes(split="backbone"), scenes_per_step, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> SceneBatch:
        return collate(self.scenes, range(step * self.n, (step + 1) * self.n))


class MiniForTraining(nn.Module):
    """The classifier that ships, with two auxiliary readouts that do not."""

    def __init__(self, *, num_classes: int, num_mask_classes: int) -> None:
        super().__init__()
        self.classifier = CanViTForImageClassification(
            canvit_config=MINI_CONFIG, n_classes=num_classes
        )
        dim, canvas_dim = MINI_CONFIG.backbone.dim, MINI_CONFIG.canvas_dim
        self.token_readout = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_mask_classes))
        self.canvas_readout = nn.Sequential(
            nn.LayerNorm(canvas_dim), nn.Linear(canvas_dim, num_mask_classes)
        )
        # Ground and fragments fill most of the picture; what has a name should count more.
        weights = torch.full((num_mask_classes,), 0.3)
        weights[:FIRST_STUFF] = 1.0
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_weights: Tensor

    def forward(
        self, batch: SceneBatch, viewpoints: list[Viewpoint]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss averaged over the glimpses, and detached figures for the log."""
        scenes = normalize(batch.pictures)
        cell_classes = grid_labels(batch.masks, MINI_GLIMPSE.canvas_grid_size).flatten(1)
        state = self.classifier.init_state(
            batch_size=len(scenes), canvas_grid_size=MINI_GLIMPSE.canvas_grid_size
        )
        losses: list[Tensor] = []
        for viewpoint in viewpoints:
            output = self.classifier.canvit(
                glimpse=sample_at_viewpoint(
                    spatial=scenes,
                    viewpoint=viewpoint,
                    glimpse_size_px=MINI_GLIMPSE.glimpse_size_px,
                ),
                state=state,
                viewpoint=viewpoint,
            )
            state = output.state
            patch_grid = MINI_GLIMPSE.glimpse_size_px // MINI_CONFIG.backbone.patch_size_px
            token_classes = mask_at(batch.masks, grid_in_scene(viewpoint, patch_grid))
            token_logits = self.token_readout(output.glimpse_patches)
            cell_logits = self.canvas_readout(self.classifier.canvit.canvas_patches(state))
            logits = self.classifier.logits(state)
            losses += [
                F.cross_entropy(logits, batch.labels),
                self._mask_loss(token_logits, token_classes),
                self._mask_loss(cell_logits, cell_classes),
            ]
        figures = {
            "animal": (logits.argmax(1) == batch.labels).float().mean(),
            "token": _named_accuracy(token_logits, token_classes),
            "cell": _named_accuracy(cell_logits, cell_classes),
        }
        return torch.stack(losses).sum() / len(viewpoints), figures

    def _mask_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), classes.flatten(), weight=self.class_weights)


def _named_accuracy(logits: Tensor, classes: Tensor) -> Tensor:
    """Accuracy where an animal or an object is."""
    named = classes < FIRST_STUFF
    return (logits.argmax(-1) == classes)[named].float().mean()


def draw_viewpoints(
    batch: SceneBatch, *, num_glimpses: int, generator: torch.Generator
) -> list[Viewpoint]:
    """Random viewpoints for a rollout: mostly the full scene first; later ones near the animal,
    near any object or anywhere (R-IID), about a third each."""
    return [
        _draw_viewpoint(batch, full_share=0.75 if t == 0 else 0.0, generator=generator)
        for t in range(num_glimpses)
    ]


def _draw_viewpoint(
    batch: SceneBatch, *, full_share: float, generator: torch.Generator
) -> Viewpoint:
    count, num_objects, _ = batch.object_centers.shape
    anywhere = random_viewpoint(
        batch_size=count, min_scale=MINI_GLIMPSE.min_scale, generator=generator
    )
    chosen = torch.randint(num_objects, (count,), generator=generator)
    kind, scale = torch.rand(2, count, generator=generator)
    jitter = (torch.rand(count, 2, generator=generator) * 2 - 1) * 0.12
    at_object = batch.object_centers[torch.arange(count), chosen]
    centers = torch.where(kind[:, None] < 0.35, batch.target_centers, at_object) + jitter
    near = clip_into_scene(
        centers=centers, scales=MINI_GLIMPSE.min_scale + scale.square() * (0.5 - 0.25)
    )
    is_near = kind < 0.7
    is_full = torch.rand(count, generator=generator) < full_share
    centers = torch.where(is_near[:, None], near.centers, anywhere.centers)
    scales = torch.where(is_near, near.scales, anywhere.scales)
    return Viewpoint(
        centers=centers.masked_fill(is_full[:, None], 0), scales=scales.masked_fill(is_full, 1)
    )


def make_optimizers(model: MiniForTraining, run: MiniTraining) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the matrices inside the core, AdamW for the embeddings, norms, biases and heads."""
    matrices = [
        p
        for name, p in model.classifier.canvit.named_parameters()
        if p.ndim == 2 and name.endswith("weight")
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return (
        Muon(matrices, lr=run.muon_lr, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=run.adam_lr, betas=(0.9, 0.98), weight_decay=0.01),
    )


def learning_rate_factor(step: int, run: MiniTraining) -> float:
    warm = min(1.0, (step + 1) / run.warmup_steps)
    left = (run.steps - step) / run.decay_steps
    return min(warm, left, 1.0)


def num_glimpses_at(step: int, run: MiniTraining) -> int:
    if step < run.short_steps:
        return 2
    return 3 + step % 3


class MiniObjective:
    """Objective of `loop.Loop`: see `MiniTraining`."""

    headline: str | None = None
    clip_norm: float | None = 1.0

    def __init__(self, run: MiniTraining, *, device: torch.device | str) -> None:
        self.run, self.device = run, device
        scenes = EmojiScenes(split="backbone")
        self.model = MiniForTraining(
            num_classes=len(scenes.class_names), num_mask_classes=len(scenes.mask_class_names)
        ).to(device)
        muon, adam = make_optimizers(self.model, run)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"muon": muon, "adam": adam}
        self.clipped: Sequence[Tensor] = adam.param_groups[0]["params"]

    def learning_rate_factor(self, step: int) -> float:
        return learning_rate_factor(step, self.run)

    def backward(self, batch: SceneBatch, *, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.run.seed * 1_000_003 + step)
        viewpoints = draw_viewpoints(
            batch, num_glimpses=num_glimpses_at(step, self.run), generator=generator
        )
        loss, figures = self.model(
            SceneBatch(*(x.to(self.device) for x in batch)),
            [v.to(self.device) for v in viewpoints],
        )
        loss.backward()
        return {"loss": loss.detach(), **figures}

    def validate(self) -> Figures:
        return {}

    def save(self, out: Path, finished: Finished) -> None:
        record = {
            **asdict(self.run),
            "finished_steps": finished.step,
            "seconds": finished.seconds,
        }
        self.model.classifier.save_pretrained(out, extra_config={"training": record})


def train(run: MiniTraining, *, out: Path, device: str, compile_model: bool) -> None:
    """Train and leave the checkpoint in `out`; continues a run that `out` holds."""
    torch.manual_seed(run.seed)
    objective = MiniObjective(run, device=device)
    loop = Loop(
        objective,
        _Batches(run.scenes_per_step, run.steps),
        pace=Pace(steps=run.steps, save_every=SAVE_EVERY, log_every=SAVE_EVERY),
        settings=asdict(run),
        out=out,
        device=device,
    )
    loop.restore()
    if compile_model:
        compile_core(objective.model.classifier.canvit)
    loop.run()


def look(
    model: CanViTForImageClassification,
    *,
    state: RecurrentState,
    pictures: Tensor,
    viewpoint: Viewpoint,
) -> RecurrentState:
    """The state after one more glimpse of normalised pictures."""
    glimpse = sample_at_viewpoint(
        spatial=pictures, viewpoint=viewpoint, glimpse_size_px=MINI_GLIMPSE.glimpse_size_px
    )
    return model.canvit(glimpse=glimpse, state=state, viewpoint=viewpoint).state


@torch.inference_mode()
def evaluate(checkpoint: str, *, split: Split, num_scenes: int) -> dict[str, float]:
    """Accuracy of the belief after chosen viewpoints, on unseen scenes.

    full: the full scene alone. oracle: then one glimpse centred on the animal at the smallest
    scale. kept: then three random glimpses more. random: full, then four random ones.
    """
    model = CanViTForImageClassification.from_pretrained(checkpoint)
    scenes = EmojiScenes(split=split)
    generator = torch.Generator().manual_seed(0)
    correct: Counter[str] = Counter()
    for indices in _chunks(num_scenes):
        batch = collate(scenes, indices)
        count = len(indices)
        step = partial(look, model, pictures=normalize(batch.pictures))
        at_random = partial(
            random_viewpoint,
            batch_size=count,
            min_scale=MINI_GLIMPSE.min_scale,
            generator=generator,
        )
        full = step(
            state=model.init_state(
                batch_size=count, canvas_grid_size=MINI_GLIMPSE.canvas_grid_size
            ),
            viewpoint=Viewpoint.full_scene(batch_size=count),
        )
        at_target = clip_into_scene(
            centers=batch.target_centers, scales=torch.full((count,), MINI_GLIMPSE.min_scale)
        )
        oracle = step(state=full, viewpoint=at_target)
        kept, random = oracle, full
        for _ in range(3):
            kept = step(state=kept, viewpoint=at_random())
        for _ in range(4):
            random = step(state=random, viewpoint=at_random())
        states = {"full": full, "oracle": oracle, "kept": kept, "random": random}
        for name, state in states.items():
            correct[name] += int((model.logits(state).argmax(1) == batch.labels).sum())
    return {name: count / num_scenes for name, count in correct.items()}


def probe_canvas(checkpoint: str, *, split: Split, num_scenes: int) -> dict[str, float]:
    """How well a linear probe reads the scene's classes from the canvas.

    Logistic regression on LayerNormed canvas patches, after the full scene and its sixteen tiles,
    fitted on as many scenes of the "train" split; accuracy over the canvas cells of unseen ones,
    over all and over those with an animal or an object at their middle.
    """
    model = CanViTForImageClassification.from_pretrained(checkpoint)
    features, classes = _canvas_cells(model, split="train", num_scenes=num_scenes)
    probe = nn.Linear(features.shape[1], len(EmojiScenes.mask_class_names))
    nn.init.zeros_(probe.weight)
    optimizer = torch.optim.LBFGS(
        probe.parameters(), max_iter=100, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(probe(features), classes) + 1e-5 * probe.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    features, classes = _canvas_cells(model, split=split, num_scenes=num_scenes)
    right = probe(features).argmax(1) == classes
    return {
        "probe_cells": float(right.float().mean()),
        "probe_named_cells": float(right[classes < FIRST_STUFF].float().mean()),
    }


@torch.no_grad()
def _canvas_cells(
    model: CanViTForImageClassification, *, split: Split, num_scenes: int
) -> tuple[Tensor, Tensor]:
    """Features float32 [cells, C] and classes int64 [cells] of the canvas cells."""
    size = MINI_GLIMPSE.canvas_grid_size
    tiles = grid_centers(4)
    features, classes = [], []
    for indices in _chunks(num_scenes):
        batch = collate(EmojiScenes(split=split), indices)
        count = len(indices)
        step = partial(look, model, pictures=normalize(batch.pictures))
        state = step(
            state=model.init_state(batch_size=count, canvas_grid_size=size),
            viewpoint=Viewpoint.full_scene(batch_size=count),
        )
        for tile in tiles:
            viewpoint = Viewpoint(centers=tile.expand(count, 2), scales=torch.full((count,), 1 / 4))
            state = step(state=state, viewpoint=viewpoint)
        patches = model.canvit.canvas_patches(state).flatten(0, 1)
        features.append(F.layer_norm(patches, patches.shape[-1:]))
        classes.append(grid_labels(batch.masks, size).flatten())
    return torch.cat(features), torch.cat(classes)


def _chunks(num_scenes: int, size: int = 200) -> Iterator[range]:
    for start in tqdm(range(0, num_scenes, size), unit="batch"):
        yield range(start, min(start + size, num_scenes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a checkpoint; a mistake is one sentence on stderr and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.training.mini",
        description="Measure a mini CanViT on unseen scenes.",
    )
    parser.add_argument("checkpoint", nargs="?", default="mini")
    parser.add_argument("--split", default="test", choices=("train", "test", "test_style"))
    parser.add_argument("--scenes", type=int, default=2000)
    args = parser.parse_args(arguments)
    try:
        asked = {"split": args.split, "num_scenes": args.scenes}
        figures = evaluate(args.checkpoint, **asked) | probe_canvas(args.checkpoint, **asked)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"split": args.split, "scenes": args.scenes, **figures}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
