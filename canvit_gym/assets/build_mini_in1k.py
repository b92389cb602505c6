"""Make the embedded `mini-in1k` and measure it beside its teacher:
`python -m canvit_gym.assets.build_mini_in1k RUN NAME=DIR ...`.

RUN is of `canvit-gym pretrain --preset mini-in1k-longer`, begun from one of `mini-in1k`.

Fuses the teacher's own classifier into the run's checkpoint, and writes `mini_in1k/` here: the
checkpoint and evaluation.json. Nothing is chosen by what is measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canvit_gym.files import write_json
from canvit_gym.geometry import MINI_GLIMPSE, Viewpoint, random_viewpoint, sample_at_viewpoint
from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining
from canvit_gym.preprocess import normalize
from canvit_gym.scenes.base import Scenes
from canvit_gym.scenes.layouts import open_scenes
from canvit_gym.training.batches import batch_of
from canvit_gym.training.rollouts import coarse_to_fine
from canvit_gym.training.teachers import Teacher, load_teacher

_GLIMPSES = 5
_BATCH = 50
_SCENE_PX, _TEACHER_PX = 128, 256


def build(run: Path, out: Path, *, pictures: dict[str, Path]) -> None:
    """Write the checkpoint and its figures, those of each set of pictures by name."""
    teacher = load_teacher("efficientnet-lite0")
    assert teacher.classifier is not None
    weight, bias = teacher.classifier
    model = CanViTForImageClassification.fuse(
        CanViTForPretraining.from_pretrained(run), probe_weight=weight, probe_bias=bias
    )
    record = json.loads((run / "config.json").read_text())["training"]
    for name in ("scenes", "init"):  # not where they lay
        record[name] = record[name] and Path(record[name]).name
    model.save_pretrained(out, extra_config={"training": record})
    figures = {name: measure(model, teacher, root) for name, root in pictures.items()}
    write_json(out / "evaluation.json", figures)


@torch.inference_mode()
def measure(model: CanViTForImageClassification, teacher: Teacher, root: Path) -> dict[str, Any]:
    """Top-1 accuracy, of the 1000 classes and of those that are among the pictures.

    After each of five glimpses, for two policies, with how much the last gains over the first and
    the 95 % interval of that (paired, normal); and the teacher's on the whole pictures.
    """
    scenes = open_scenes(root, size_px=_SCENE_PX, split="all", classes="imagenet")
    labels = torch.tensor([scenes[i].label for i in range(len(scenes))])
    there = labels.unique()
    generator = torch.Generator().manual_seed(0)
    policies: dict[str, Callable[[int], list[Viewpoint]]] = {
        "coarse_to_fine": lambda count: coarse_to_fine(
            count, num_glimpses=_GLIMPSES, generator=generator
        ),
        "full_then_random": lambda count: _full_then_random(count, generator),
    }
    found: dict[str, Any] = {"pictures": len(scenes), "classes": len(there)}
    for name, viewpoints in policies.items():
        logits = _after_each_glimpse(model, scenes, viewpoints)
        found[name] = {
            "top1": _accuracies(logits, labels),
            "top1_among_those_there": _accuracies(logits[..., there], _places(labels, there)),
            "gain": _gain(logits, labels),
        }
    whole = open_scenes(root, size_px=_TEACHER_PX, split="all", classes="imagenet")
    seen = _teachers_logits(teacher, whole)[None]
    found["teacher"] = {
        "top1": _accuracies(seen, labels)[0],
        "top1_among_those_there": _accuracies(seen[..., there], _places(labels, there))[0],
    }
    return found


def _full_then_random(count: int, generator: torch.Generator) -> list[Viewpoint]:
    return [
        Viewpoint.full_scene(batch_size=count),
        *(
            random_viewpoint(
                batch_size=count, min_scale=MINI_GLIMPSE.min_scale, generator=generator
            )
            for _ in range(_GLIMPSES - 1)
        ),
    ]


def _after_each_glimpse(
    model: CanViTForImageClassification,
    scenes: Scenes,
    viewpoints: Callable[[int], list[Viewpoint]],
) -> Tensor:
    """Logits float32 [glimpses, scenes, classes]."""
    parts = []
    for indices in _chunks(scenes):
        pictures = normalize(batch_of(scenes, indices).pictures)
        state = model.init_state(
            batch_size=len(indices), canvas_grid_size=MINI_GLIMPSE.canvas_grid_size
        )
        steps = []
        for viewpoint in viewpoints(len(indices)):
            glimpse = sample_at_viewpoint(
                spatial=pictures,
                viewpoint=viewpoint,
                glimpse_size_px=MINI_GLIMPSE.glimpse_size_px,
            )
            logits, state = model(glimpse=glimpse, state=state, viewpoint=viewpoint)
            steps.append(logits)
        parts.append(torch.stack(steps))
    return torch.cat(parts, dim=1)


def _teachers_logits(teacher: Teacher, scenes: Scenes) -> Tensor:
    assert teacher.classifier is not None
    weight, bias = teacher.classifier
    return torch.cat(
        [
            teacher(batch_of(scenes, indices).pictures).cls @ weight.T + bias
            for indices in _chunks(scenes)
        ]
    )


def _chunks(scenes: Scenes) -> list[Sequence[int]]:
    return [range(i, min(i + _BATCH, len(scenes))) for i in range(0, len(scenes), _BATCH)]


def _accuracies(logits: Tensor, labels: Tensor) -> list[float]:
    right = (logits.argmax(-1) == labels).double().mean(-1)
    return [round(share, 4) for share in right.tolist()]


def _places(labels: Tensor, there: Tensor) -> Tensor:
    return torch.searchsorted(there, labels)


def _gain(logits: Tensor, labels: Tensor) -> dict[str, float]:
    right = (logits.argmax(-1) == labels).double()
    gain = right[-1] - right[0]
    reach = 1.96 * float(gain.std()) / len(gain) ** 0.5
    mean = float(gain.mean())
    found = {"t4_over_t0": mean, "low": mean - reach, "high": mean + reach}
    return {name: round(value, 4) for name, value in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("run", type=Path, help="directory that pretrain wrote")
    parser.add_argument(
        "pictures", nargs="+", metavar="NAME=DIR", help="labelled pictures that it never saw"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "mini_in1k")
    args = parser.parse_args(arguments)
    pairs = (text.partition("=") for text in args.pictures)
    build(args.run, args.out, pictures={name: Path(root) for name, _, root in pairs})


if __name__ == "__main__":
    main()
