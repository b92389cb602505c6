"""Batches of pictures, one for each step of a run, and what is held out of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from canvit_gym.scenes.base import Scenes
from canvit_gym.scenes.stored import StoredScenes
from canvit_gym.training.common import EpochOrder, generator_for, seed_for
from canvit_gym.training.features import FeatureShards
from canvit_gym.training.processes import Processes


class DistillationBatch(NamedTuple):
    """pictures uint8 [B, S, S, 3]; labels int64 [B], -1 where there is none; the teacher's features
    of the pictures, patches [B, G^2, D] and cls [B, D] of any float type, or None where the teacher
    is to be asked."""

    pictures: Tensor
    labels: Tensor
    patches: Tensor | None = None
    cls: Tensor | None = None

    def part(self, index: slice) -> DistillationBatch:
        """Some of the pictures."""
        patches, cls = (None if x is None else x[index] for x in (self.patches, self.cls))
        return DistillationBatch(self.pictures[index], self.labels[index], patches, cls)


class Pictures(Protocol):
    """A protocol of settings that say which pictures a step takes."""

    @property
    def steps(self) -> int: ...

    @property
    def scenes_per_step(self) -> int: ...

    @property
    def seed(self) -> int: ...

    @property
    def picture_size_px(self) -> int: ...

    @property
    def flip(self) -> bool: ...

    @property
    def crop_area(self) -> float: ...


class SceneBatches(Dataset[DistillationBatch]):
    """Batch i of a run, of pictures alone: epoch after epoch, each in another order."""

    def __init__(
        self,
        scenes: Scenes,
        indices: Sequence[int],
        *,
        run: Pictures,
        processes: Processes | None = None,
        whole: bool = False,
    ) -> None:
        """processes: whose share of each batch this is. whole: whether random crops are of whole
        pictures where scenes can give these, and not of the central square."""
        self.scenes, self.indices, self.run = scenes, indices, run
        self.whole = whole and run.crop_area < 1 and getattr(scenes, "has_whole_pictures", False)
        self.share = (processes or Processes()).share(run.scenes_per_step)
        self.order = EpochOrder(
            len(indices), seed=run.seed, shuffled=not getattr(scenes, "exchangeable", False)
        )
        size, steps = run.picture_size_px, []
        if run.crop_area < 1:
            steps += [v2.RandomResizedCrop(size, scale=(run.crop_area, 1.0), antialias=True)]
        if run.flip:
            steps += [v2.RandomHorizontalFlip()]
        self.augment = v2.Compose(steps) if steps else None

    def __len__(self) -> int:
        return self.run.steps

    def __getitem__(self, step: int) -> DistillationBatch:
        count = self.run.scenes_per_step
        places = self.order.indices(step, count)[self.share]
        # Of each scene its own draws, so that they are the same in whichever process it is.
        base = seed_for("augmentation", seed=self.run.seed, step=step) * count
        batch = [
            self._drawn(int(self.indices[place]), seed=base + number)
            for place, number in zip(places, range(count)[self.share], strict=True)
        ]
        return DistillationBatch(
            pictures=torch.stack([picture for picture, _ in batch]),
            labels=torch.tensor([label for _, label in batch]),
        )

    def _drawn(self, index: int, *, seed: int) -> tuple[Tensor, int]:
        """A scene's picture, uint8 [S, S, 3], and its label."""
        augment = self.augment
        if augment is None:
            scene = self.scenes[index]
            return torch.tensor(scene.picture), scene.label
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.whole:
                assert isinstance(self.scenes, StoredScenes)
                scene = self.scenes.cropped(index, lambda image: np.array(augment(image)))
                return torch.tensor(scene.picture), scene.label
            scene = self.scenes[index]
            picture = torch.tensor(scene.picture).permute(2, 0, 1)
            return augment(picture).permute(1, 2, 0).contiguous(), scene.label


class FeatureBatches(Dataset[DistillationBatch]):
    """Batch i of a run, of pictures and the features that an export has of them."""

    def __init__(
        self,
        scenes: Scenes,
        features: FeatureShards,
        rows: Sequence[int],
        *,
        run: Pictures,
        processes: Processes | None = None,
    ) -> None:
        """scenes: those of the features' index, of any size. rows: of the features, without those
        that failed. processes: whose share of each batch this is.

        Raises ValueError where the run wants crops, which features of whole pictures do not fit.
        """
        if run.crop_area < 1:
            raise ValueError(
                f"crop_area is {run.crop_area}, but exported features are of whole pictures; give "
                "crop_area=1."
            )
        self.scenes, self.features, self.rows, self.run = scenes, features, rows, run
        self.share = (processes or Processes()).share(run.scenes_per_step)
        self.order = EpochOrder(len(rows), seed=run.seed)

    def __len__(self) -> int:
        return self.run.steps

    def __getitem__(self, step: int) -> DistillationBatch:
        count = self.run.scenes_per_step
        rows = [self.rows[place] for place in self.order.indices(step, count)[self.share]]
        batch = feature_batch(self.scenes, self.features, rows)
        if not self.run.flip:
            return batch
        generator = generator_for("augmentation", seed=self.run.seed, step=step)
        return _mirrored(batch, torch.rand(count, generator=generator)[self.share] < 0.5)


def feature_batch(
    scenes: Scenes, features: FeatureShards, rows: Sequence[int]
) -> DistillationBatch:
    """The scenes and features of these rows, as they are."""
    batch = [scenes[int(features.index.scenes[row])] for row in rows]
    return DistillationBatch(
        torch.from_numpy(np.stack([scene.picture for scene in batch])),
        torch.tensor([scene.label for scene in batch]),
        *features.read(rows),
    )


def _mirrored(batch: DistillationBatch, which: Tensor) -> DistillationBatch:
    """Some pictures from right to left, bool [B], and their patches, too: what the teacher would
    see in the mirrored picture, but for its own asymmetries."""
    assert batch.patches is not None
    side = round(batch.patches.shape[1] ** 0.5)
    maps = batch.patches.unflatten(1, (side, side))
    chosen = which[:, None, None, None]
    return batch._replace(
        pictures=torch.where(chosen, batch.pictures.flip(2), batch.pictures),
        patches=torch.where(chosen, maps.flip(2), maps).flatten(1, 2),
    )


def batch_of(scenes: Scenes, indices: Sequence[int]) -> DistillationBatch:
    """The scenes at these indices, as they are."""
    batch = [scenes[int(index)] for index in indices]
    return DistillationBatch(
        pictures=torch.from_numpy(np.stack([scene.picture for scene in batch])),
        labels=torch.tensor([scene.label for scene in batch]),
    )


def in_order(
    scenes: Scenes, indices: Sequence[int], *, batch_size: int, workers: int = 0
) -> Iterator[tuple[Sequence[int], DistillationBatch]]:
    """Batches of the scenes at these indices, one after the other, with the indices of each.

    workers: processes that prepare them; 0 for none beside this one.
    """
    parts = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    loader = DataLoader(_Parts(scenes, parts), batch_size=None, num_workers=workers)
    return zip(parts, loader, strict=True)


class _Parts(Dataset[DistillationBatch]):
    """The batch of each part of some indices."""

    def __init__(self, scenes: Scenes, parts: Sequence[Sequence[int]]) -> None:
        self.scenes, self.parts = scenes, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, part: int) -> DistillationBatch:
        return batch_of(self.scenes, self.parts[part])


def held_out_indices(
    scenes: Scenes, others: Scenes | None, *, count: int, seed: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Which scenes to train on, and which to validate on: at most `count` of the others, or as many
    of the same, which are held out.

    Raises ValueError where none would be left to train on.
    """
    if others is not None:
        return range(len(scenes)), _shuffled(others, seed=seed)[:count]
    if len(scenes) <= count:
        raise ValueError(
            f"There are {len(scenes)} scenes, but validation_scenes is {count}; hold out fewer, so "
            "that some are left to train on."
        )
    order = _shuffled(scenes, seed=seed)
    return order[count:], order[:count]


def _shuffled(scenes: Scenes, *, seed: int) -> Sequence[int]:
    """All indices in an order that the seed decides; as they are where any is as good."""
    if getattr(scenes, "exchangeable", False):
        return range(len(scenes))
    generator = generator_for("held out", seed=seed, step=0)
    # An array, because worker processes would each make a copy of a list's millions of numbers.
    return cast(Sequence[int], torch.randperm(len(scenes), generator=generator).numpy())
