"""The embedded photographs: what they show, and that they may be given to anyone."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import canvit_gym
from canvit_gym.scenes.album import AlbumScenes
from canvit_gym.scenes.base import require_scenes
from canvit_gym.scenes.imagenet import CLASS_NAMES

FOLDER = Path(canvit_gym.__file__).parent / "assets" / "album"
ROWS = json.loads((FOLDER / "album.json").read_text(encoding="utf-8"))["photographs"]


def test_at_least_sixteen_photographs_of_as_many_classes() -> None:
    scenes = AlbumScenes()
    require_scenes(scenes)
    labels = [scenes[i].label for i in range(len(scenes))]
    assert len(labels) == len(set(labels)) == len(ROWS) >= 16
    assert labels == [row["label"] for row in ROWS] and scenes.class_names == CLASS_NAMES
    for i in range(len(scenes)):
        picture = scenes[i].picture
        assert picture.shape == (256, 256, 3) and len(np.unique(picture)) > 100


def test_the_teacher_names_each_in_its_top_five() -> None:
    for row in ROWS:
        assert len(row["teacher_top5"]) == 5
        assert row["label"] in [label for label, _ in row["teacher_top5"]], row["name"]


@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None, reason="the teacher is not installed"
)
def test_the_teacher_still_says_so() -> None:
    from canvit_gym.training.teachers import load_teacher

    teacher, scenes = load_teacher("efficientnet-lite0"), AlbumScenes()
    assert teacher.classifier is not None
    weight, bias = teacher.classifier
    pictures = torch.from_numpy(np.stack([scenes[i].picture for i in range(len(scenes))]))
    with torch.no_grad():
        probs = (teacher(pictures).cls @ weight.T + bias).softmax(1)
    for row, prob in zip(ROWS, probs, strict=True):
        assert row["label"] in prob.topk(5).indices
        for label, said in row["teacher_top5"]:
            assert float(prob[label]) == pytest.approx(said, abs=0.01)


def test_files_are_small_and_those_that_were_checked() -> None:
    assert {path.stem for path in FOLDER.glob("*.jpg")} == {row["name"] for row in ROWS}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000
    for row in ROWS:
        data = (FOLDER / f"{row['name']}.jpg").read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        with Image.open(FOLDER / f"{row['name']}.jpg") as image:
            assert image.width == image.height <= 256


def test_each_has_a_licence_that_allows_it() -> None:
    for row in ROWS:
        assert row["licence"] in ("CC0-1.0", "Public Domain", "CC-BY-3.0")
        text = (FOLDER / f"LICENSE-{row['name']}.txt").read_text(encoding="utf-8")
        for said in (row["author"], row["licence"], row["source"], row["package"], "Changes:"):
            assert said in text
    assert len(list(FOLDER.glob("LICENSE-*.txt"))) == len(ROWS)


def test_splits_part_it() -> None:
    train, test = AlbumScenes(split="train"), AlbumScenes(split="test")
    names = [{s[i].name for i in range(len(s))} for s in (train, test)]
    assert not names[0] & names[1] and len(names[0] | names[1]) == len(AlbumScenes())
    with pytest.raises(ValueError, match="split is 'val'"):
        AlbumScenes(split="val")  # type: ignore[arg-type]
    with pytest.raises(IndexError, match=r"scenes 0 \.\. 31"):
        AlbumScenes()[32]
