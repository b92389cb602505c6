"""Reconstruction is measured as published, whatever the batches, and mistakes are one sentence."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from test_distill import DIM, MODEL, RUN, TinyTeacher, objective_of

from canvit_agents.cli.main import main
from canvit_gym.envs.backbones import Looks
from canvit_gym.geometry import GlimpseSpec, check_inside, sample_at_viewpoint
from canvit_gym.model.canvit import RecurrentState
from canvit_gym.model.heads import CanViTForPretraining
from canvit_gym.preprocess import normalize
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.training import teachers
from canvit_gym.training.batches import batch_of
from canvit_gym.training.loop import Finished
from canvit_gym.training.reconstruction import (
    Reconstruction,
    cosines,
    measure,
    random_views,
    reconstruct,
)
from canvit_gym.training.teachers.base import TeacherFeatures

LOOKS = Looks(
    scene_size_px=128, glimpse=GlimpseSpec(glimpse_size_px=32, canvas_grid_size=4, min_scale=0.25)
)
HOW = Reconstruction(looks=LOOKS, picture_size_px=128, num_glimpses=3)
SCENES = EmojiScenes(split="test")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CanViT with statistics of its teacher, saved as training does."""
    objective = objective_of(replace(RUN, min_scale=0.25))
    folder = tmp_path_factory.mktemp("pretrained")
    objective.save(folder, Finished(step=1, seconds=1.0, figures={}))
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name, the teacher is the tiny one."""
    monkeypatch.setattr(teachers, "load_teacher", lambda name, device: TinyTeacher())


class Fixed(CanViTForPretraining):
    """Predicts what it is told."""

    def __init__(self, patches: torch.Tensor, cls: torch.Tensor) -> None:
        super().__init__(canvit_config=MODEL, teacher_dim=2, teacher_patch_grid=1)
        self.patches, self.cls = patches, cls

    def predict_teacher_patches(self, state: RecurrentState) -> torch.Tensor:
        return self.patches

    def predict_teacher_cls(self, state: RecurrentState) -> torch.Tensor:
        return self.cls


def test_cosines_of_a_case_worked_by_hand() -> None:
    """Predicted (1, 0) with mean (0, 3) and deviation (4, 1) is (4, 3) as the teacher has it."""
    model = Fixed(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0.0, 2.0]]))
    for standardizer in (model.teacher_patch_standardizer, model.teacher_cls_standardizer):
        standardizer.mean.copy_(torch.tensor([[0.0, 3.0]]))
        standardizer.var.copy_(torch.tensor([[16.0, 1.0]]))
        standardizer.fitted.fill_(True)
    # The patch is (3, 4) standardised; the CLS is (0, -1).
    features = TeacherFeatures(
        patches=torch.tensor([[[12.0, 7.0]]]), cls=torch.tensor([[0.0, 2.0]])
    )
    state = model.init_state(batch_size=1, canvas_grid_size=1)
    found = {name: float(value) for name, value in cosines(model, state, features).items()}
    assert found == pytest.approx(
        {
            "patch_cos_standardized": 3 / 5,
            "patch_cos_raw": (4 * 12 + 3 * 7) / (5 * (12**2 + 7**2) ** 0.5),
            "cls_cos_standardized": -1.0,
            "cls_cos_raw": 1.0,  # (0, 5) and (0, 2)
        },
        abs=1e-5,  # the variances' epsilon is 1e-6
    )


def test_a_perfect_prediction_has_cosine_1_in_both_spaces() -> None:
    torch.manual_seed(0)
    objective = objective_of(RUN)
    model, batch = objective.kept, batch_of(SCENES, range(3))
    features = TinyTeacher()(batch.pictures)
    perfect = Fixed(
        model.teacher_patch_standardizer(features.patches),
        model.teacher_cls_standardizer(features.cls[:, None])[:, 0],
    )
    perfect.teacher_patch_standardizer = model.teacher_patch_standardizer
    perfect.teacher_cls_standardizer = model.teacher_cls_standardizer
    state = model.init_state(batch_size=3, canvas_grid_size=4)
    for values in cosines(perfect, state, features).values():
        torch.testing.assert_close(values, torch.ones(3))


def test_figures_are_the_references(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    """canvit-pytorch's own measure of its own model, on the same weights and viewpoints."""
    pytest.importorskip("canvit_pytorch.evaluate.config", exc_type=ImportError)
    if "transformers" not in sys.modules:  # only the reference's own teacher needs it
        stub: Any = ModuleType("canvit_pytorch.teacher")
        stub.TEACHER_REPO, stub.load_teacher = "tiny", lambda *_: TinyTeacher()
        monkeypatch.setitem(sys.modules, "canvit_pytorch.teacher", stub)
    from canvit_pytorch import CanViTConfig as ReferenceConfig
    from canvit_pytorch import CanViTForPretraining as ReferenceModel
    from canvit_pytorch import Viewpoint as ReferenceViewpoint
    from canvit_pytorch.evaluate.tasks.reconstruction import METRICS, cosine_similarities
    from make_golden import small_backbone_in_reference

    with small_backbone_in_reference():
        theirs = ReferenceModel(
            canvit_config=ReferenceConfig(**vars(MODEL)), teacher_dim=DIM, teacher_patch_grid=4
        ).eval()
    ours = CanViTForPretraining.from_pretrained(checkpoint)
    theirs.load_state_dict(ours.state_dict())
    indices = range(5)
    found = reconstruct(ours, TinyTeacher(), SCENES, indices, how=HOW, batch_size=5, show=False)

    pictures = batch_of(SCENES, indices).pictures
    features = TinyTeacher()(pictures)
    state = theirs.canvit.init_state(batch_size=5, canvas_grid_size=4)
    views = random_views(indices, num_glimpses=3, min_scale=0.25, seed=0)
    names = dict(
        zip(
            METRICS,
            ("patch_cos_raw", "cls_cos_raw", "patch_cos_standardized", "cls_cos_standardized"),
            strict=True,
        )
    )
    for t, view in enumerate(views):
        with torch.no_grad():
            glimpse = sample_at_viewpoint(
                spatial=normalize(pictures), viewpoint=view, glimpse_size_px=32
            )
            state = theirs.canvit(
                glimpse=glimpse, state=state, viewpoint=ReferenceViewpoint(**vars(view))
            ).state
            scene = cosine_similarities(
                prediction=theirs.predict_teacher_patches(state.canvas),
                raw_target=features.patches,
                standardizer=theirs.teacher_patch_standardizer,
            )
            cls = cosine_similarities(
                prediction=theirs.predict_teacher_cls(state.recurrent_cls),
                raw_target=features.cls,
                standardizer=theirs.teacher_cls_standardizer,
            )
        expected = dict(zip(METRICS, (scene[1], cls[1], scene[0], cls[0]), strict=True))
        for metric, name in names.items():
            assert float(found[name][:, t].mean()) == pytest.approx(expected[metric], abs=1e-5)


def test_neither_batches_nor_workers_nor_other_scenes_change_a_scenes_figures(
    checkpoint: Path,
) -> None:
    model = CanViTForPretraining.from_pretrained(checkpoint)

    def figures(indices: list[int], **how: int) -> dict[str, torch.Tensor]:
        return reconstruct(model, TinyTeacher(), SCENES, indices, how=HOW, show=False, **how)

    together = figures([7, 2, 9], batch_size=3)
    for name, values in figures([2, 7], batch_size=1, workers=1).items():
        # Sums are taken in another order in other batches.
        torch.testing.assert_close(values, together[name][[1, 0]], atol=1e-5, rtol=0)


def test_bfloat16_is_of_the_canvit_alone(checkpoint: Path) -> None:
    """Its rounding (2^-9 of a value) shows, and is small; the teacher stays float32."""
    seen: list[torch.dtype] = []

    class Watched(TinyTeacher):
        def __call__(self, pictures: torch.Tensor) -> TeacherFeatures:
            seen.append(torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype)
            return super().__call__(pictures)

    model = CanViTForPretraining.from_pretrained(checkpoint)
    exact, rounded = (
        reconstruct(model, Watched(), SCENES, range(4), how=replace(HOW, precision=p), show=False)
        for p in ("float32", "bfloat16")
    )
    assert seen == [torch.float32] * 2
    for name, values in exact.items():
        assert not values.equal(rounded[name])
        torch.testing.assert_close(values, rounded[name], atol=0.05, rtol=0)


def test_views_are_of_the_seed_and_inside() -> None:
    first, again, other = (
        random_views([3, 4], num_glimpses=20, min_scale=0.25, seed=seed) for seed in (0, 0, 1)
    )
    for a, b, c in zip(first, again, other, strict=True):
        check_inside(a)
        assert float(a.scales.min()) >= 0.25
        assert a.centers.equal(b.centers) and not a.centers.equal(c.centers)
        assert not a.centers[0].equal(a.centers[1])


# -- the command -----------------------------------------------------------------------------------


def arguments(trained: Path, out: Path, **changes: str) -> list[str]:
    given = {
        "checkpoint": str(trained), "teacher": "tiny", "scenes": "emoji", "glimpses": "2",
        "limit": "5", "out": str(out),
    }  # fmt: skip
    return [
        "reconstruct",
        *(part for k, v in {**given, **changes}.items() for part in (f"--{k}", v)),
    ]


@pytest.mark.usefixtures("tiny")
def test_the_command_writes_and_shows_figures(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "figures.json"
    assert main(arguments(checkpoint, out)) == 0
    written = json.loads(out.read_text())
    again = measure(
        checkpoint=checkpoint, teacher=TinyTeacher(), scenes="emoji", num_glimpses=2, limit=5,
        show=False,
    )  # fmt: skip
    assert written == json.loads(json.dumps(again))
    assert written["num_scenes"] == 5 and written["min_scale"] == 0.25
    assert set(written["mean"]) == set(written["standard_error"])
    shown = capsys.readouterr().out
    assert f"{written['mean']['cls_cos_raw'][1]:.4f}" in shown and str(out) in shown


@pytest.mark.usefixtures("tiny")
def test_ade20k_folders_and_the_album_are_known(
    checkpoint: Path, tmp_path: Path, ade20k_folder: Path
) -> None:
    out = tmp_path / "figures.json"
    for scenes, count in ((str(ade20k_folder), 3), ("album", 5)):
        assert main(arguments(checkpoint, out, scenes=scenes)) == 0
        assert json.loads(out.read_text())["num_scenes"] == count


class Wide(TinyTeacher):
    dim = 13


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "mini"}, "CanViTForImageClassification"),
        ({"checkpoint": "nowhere/at/all"}, "was not found"),
        ({"scenes": "nowhere"}, "There is no nowhere"),
        ({"glimpses": "0"}, "num_glimpses is 0"),
        ({"limit": "0"}, "limit is 0"),
        ({"picture-size": "256"}, "4 x 4 patches, but tiny sees a picture of 256 px as 8 x 8"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"device": "nonsense"}, "device is 'nonsense'"),
        ({"seed": "-1"}, "seed is -1"),
    ],
)
def test_mistakes_are_one_sentence(
    changes: dict[str, str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "figures.json"
    assert main(arguments(checkpoint, out, **changes)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_another_teacher_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="features of width 12, but those of tiny have 13"):
        measure(checkpoint=checkpoint, teacher=Wide(), scenes="emoji")


def test_no_statistics_are_refused() -> None:
    model = CanViTForPretraining(canvit_config=MODEL, teacher_dim=DIM, teacher_patch_grid=4)
    with pytest.raises(ValueError, match="no statistics"):
        reconstruct(model, TinyTeacher(), SCENES, [0], how=HOW)


def test_a_folder_without_pictures_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match="loose pictures"):
        measure(checkpoint=checkpoint, teacher=TinyTeacher(), scenes=tmp_path)
