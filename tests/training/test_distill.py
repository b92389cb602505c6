"""Distillation: equal to the reference trainer, exact when continued, and it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from make_golden import small_backbone_in_reference
from torch import Tensor, nn

from canvit_gym.geometry import (
    Viewpoint,
    check_inside,
    grid_centers,
    grid_in_scene,
    sample_at_viewpoint,
)
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import (
    CanViTForImageClassification,
    CanViTForPretraining,
    Standardizer,
)
from canvit_gym.preprocess import normalize
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.training.batches import DistillationBatch, SceneBatches, _mirrored, batch_of
from canvit_gym.training.common import compile_core
from canvit_gym.training.distill import (
    PROBE,
    Distillation,
    DistillationObjective,
    RunningMoments,
    draw_length,
    features_at,
    head_start,
)
from canvit_gym.training.loop import Loop, Pace, TrainingDiverged, peaks_of, update
from canvit_gym.training.rollouts import coarse_to_fine
from canvit_gym.training.teachers.base import TeacherFeatures

MODEL = CanViTConfig(
    backbone_name="mini8",
    canvas_num_heads=2,
    canvas_head_dim=16,
    num_canvas_registers=2,
    num_backbone_registers=1,
)
RUN = Distillation(
    model=MODEL,
    steps=25,
    scenes_per_step=4,
    scene_size_px=128,
    picture_size_px=128,
    glimpse_size_px=32,
    canvas_grid_size=4,
    statistics_scenes=16,
    lr=1e-3,
    warmup_steps=10,
    precision="float32",
    validation_scenes=0,
    validation_glimpses=3,
    save_every=10,
)
DIM = 12


class TinyTeacher:
    """A random ViT of one block: patches of 32 px and a CLS token, like DINOv3's features."""

    name, dim = "tiny", DIM

    def __init__(self, *, classes: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.embed = nn.Conv2d(3, DIM, 32, stride=32)
            self.block = nn.TransformerEncoderLayer(
                DIM, 2, 24, dropout=0.0, batch_first=True, norm_first=True
            ).eval()
            self.cls = torch.randn(1, 1, DIM)
            head = torch.randn(classes, DIM), torch.randn(classes)
        self.classifier = head if classes else None

    def patch_grid(self, size_px: int) -> int:
        return size_px // 32

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> TeacherFeatures:
        patches = self.embed(normalize(pictures)).flatten(2).transpose(1, 2)
        tokens = self.block(torch.cat((self.cls.expand(len(patches), -1, -1), patches), dim=1))
        return TeacherFeatures(patches=tokens[:, 1:].float(), cls=tokens[:, 0].float())


def batches_of(run: Distillation) -> SceneBatches:
    return SceneBatches(EmojiScenes(split="backbone"), range(10), run=run)


def objective_of(run: Distillation, **kwargs: Any) -> DistillationObjective:
    torch.manual_seed(run.seed)
    teacher = TinyTeacher(classes=16)
    objective = DistillationObjective(
        run, teacher_dim=DIM, teacher=teacher, classifier=teacher.classifier, **kwargs
    )
    objective.fit_standardizers(head_start(batches_of(run), run))
    return objective


def loop_of(
    run: Distillation, out: Path, objective: DistillationObjective | None = None
) -> Loop[DistillationBatch]:
    pace = Pace(steps=run.steps, save_every=run.save_every, log_every=1)
    return Loop(
        objective_of(run) if objective is None else objective,
        batches_of(run),
        pace=pace,
        settings={"seed": run.seed},
        out=out,
        device="cpu",
        workers=0,
        show=False,
    )


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


VARIANTS = {
    "published": {},
    "one glimpse a chunk": {"chunk_glimpses": 1, "stop_probability": 0.25, "steps": 6},
    "one random rollout": {"rollouts": (0.0,), "steps": 6},
    "no dense loss": {"patch_loss": 0.0, "steps": 6},
    "bfloat16": {"precision": "bfloat16", "steps": 5},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_losses_and_gradients_are_the_reference_trainers(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 steps of canvit-pytorch's own loss, chunks, clipping, AdamW and schedule, on the same
    scenes, teacher and viewpoints."""
    pytest.importorskip("canvit_pytorch.pretrain.step")
    from canvit_pytorch import CanViTConfig as ReferenceConfig
    from canvit_pytorch import CanViTForPretraining as ReferenceModel
    from canvit_pytorch import Viewpoint as ReferenceViewpoint
    from canvit_pytorch.pretrain import step as reference_step
    from canvit_pytorch.pretrain.loss import DistillationTargets
    from canvit_pytorch.pretrain.schedule import warmup_then_constant

    run = replace(RUN, **changes)
    objective = objective_of(run)
    ours: list[tuple[float, float]] = []
    start = {name: tensor.clone() for name, tensor in objective.kept.state_dict().items()}
    backward = objective.backward

    def recorded(batch: DistillationBatch, *, step: int) -> dict[str, Tensor]:
        figures = backward(batch, step=step)
        gradients = [p.grad for p in objective.model.parameters() if p.grad is not None]
        ours.append((float(figures["loss"]), float(nn.utils.get_total_norm(gradients))))
        return figures

    monkeypatch.setattr(objective, "backward", recorded)
    loop_of(run, tmp_path, objective).run()

    with small_backbone_in_reference():
        model = ReferenceModel(
            canvit_config=ReferenceConfig(**vars(MODEL)), teacher_dim=DIM, teacher_patch_grid=4
        )
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "bfloat16")
    teacher, batches = TinyTeacher(), batches_of(run)
    with autocast:
        features = [teacher(batches[i].pictures) for i in range(4)]
    model.teacher_patch_standardizer.fit(torch.cat([f.patches for f in features]))
    model.teacher_cls_standardizer.fit(torch.cat([f.cls for f in features])[:, None])
    for name, tensor in model.state_dict().items():
        if "standardizer" in name and tensor.is_floating_point():
            torch.testing.assert_close(start[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    model.load_state_dict(start)
    parameters = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(parameters, lr=run.lr, weight_decay=run.weight_decay)
    schedule = warmup_then_constant(
        adam, start_lr=run.start_lr, peak_lr=run.lr, warmup_steps=run.warmup_steps
    )
    theirs = []
    for step in range(run.steps):
        plan = objective.rollouts(step)
        replayed = iter(plan)

        def make_policy(*args: Any, replayed: Any = replayed, **kwargs: Any) -> Any:
            views = next(replayed)
            return SimpleNamespace(
                step=lambda t, state: ReferenceViewpoint(
                    centers=views[t].centers, scales=views[t].scales
                )
            )

        monkeypatch.setattr(reference_step, "make_policy", make_policy)
        length = len(plan[0])
        monkeypatch.setattr(
            reference_step, "sample_rollout_length", lambda *, n=length, **kwargs: n
        )
        batch = batches[step]
        with autocast:
            patches, cls = teacher(batch.pictures)
        adam.zero_grad()
        metrics = reference_step.training_step(
            model=model,
            images=normalize(batch.pictures),
            targets=DistillationTargets.standardize(model, patches=patches, cls=cls),
            rollout_policies=("random",) * len(run.rollouts),
            tbptt_chunk_glimpses=run.chunk_glimpses,
            stop_probability=run.stop_probability,
            glimpse_size_px=run.glimpse_size_px,
            canvas_grid_size=run.canvas_grid_size,
            enable_teacher_patch_loss=run.patch_loss > 0,
            enable_teacher_cls_loss=True,
            autocast=autocast,
        )
        norm = nn.utils.clip_grad_norm_(parameters, run.clip_norm)
        adam.step()
        schedule.step()
        theirs.append((float(metrics.loss), float(norm)))
    # bfloat16 rounds to 2^-8 of a value, and a step's differences grow with the next ones.
    tolerance = 1e-5 if run.precision == "float32" else 2**-8
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=tolerance, atol=0)
    assert len({len(objective.rollouts(step)[0]) for step in range(run.steps)}) > 1


def test_an_interrupted_run_continues_as_if_unbroken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(RUN, optimizer="muon", token_loss=1.0, class_loss=0.3, steps=6, save_every=2,
                  flip=True, crop_area=0.4)  # fmt: skip
    unbroken = objective_of(run)
    loop_of(run, tmp_path / "unbroken", unbroken).run()

    class Killed(BaseException):
        pass

    broken = objective_of(run)
    backward = broken.backward

    def killed(batch: DistillationBatch, *, step: int) -> dict[str, Tensor]:
        if step == 5:
            raise Killed
        return backward(batch, step=step)

    monkeypatch.setattr(broken, "backward", killed)
    with pytest.raises(Killed):
        loop_of(run, tmp_path / "broken", broken).run()
    continued = objective_of(run)
    loop = loop_of(run, tmp_path / "broken", continued)
    assert loop.restore()
    loop.run()
    for name, tensor in unbroken.model.state_dict().items():
        assert torch.equal(continued.model.state_dict()[name], tensor), name
    for key in ("step", "loss", "patch", "class", "token", "grad_norm"):
        columns = [[line[key] for line in log_of(tmp_path / which)]
                   for which in ("unbroken", "broken")]  # fmt: skip
        assert columns[0] == columns[1] and len(columns[0]) == 6, key


def test_a_run_leaves_a_checkpoint_that_fuses_with_the_teachers_classes(tmp_path: Path) -> None:
    run = replace(RUN, steps=2, token_loss=1.0)
    objective = objective_of(run)
    loop_of(run, tmp_path, objective).run()
    found = CanViTForPretraining.from_pretrained(tmp_path)
    assert found.teacher_dim == DIM and found.teacher_patch_grid == 4
    for name, tensor in objective.kept.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    record = json.loads((tmp_path / "config.json").read_text())["training"]
    assert record["finished_steps"] == 2 and record["lr"] == run.lr
    weight, bias = TinyTeacher(classes=16).classifier  # type: ignore[misc]
    fused = CanViTForImageClassification.from_pretrained_with_probe(tmp_path, tmp_path / PROBE)
    state = found.init_state(batch_size=1, canvas_grid_size=4)
    cls = objective._destandardized(found.predict_teacher_cls(state))
    torch.testing.assert_close(fused.logits(state), cls @ weight.T + bias, rtol=1e-4, atol=1e-4)


def test_every_loss_falls_on_one_batch(tmp_path: Path) -> None:
    """It can learn a batch by heart, with the settings of the minis."""
    run = replace(
        RUN, steps=30, rollouts=(0.6,), lengths=(2, 3), chunk_glimpses=3, token_loss=1.0,
        class_loss=0.3, statistics="channel", optimizer="muon", lr=2e-3, start_lr=2e-4,
        warmup_steps=5, decay_steps=10, statistics_scenes=4,
    )  # fmt: skip
    objective = objective_of(run)
    batch = batches_of(run)[0]

    class Same(torch.utils.data.Dataset[DistillationBatch]):
        def __len__(self) -> int:
            return run.steps

        def __getitem__(self, step: int) -> DistillationBatch:
            return batch

    figures: list[dict[str, Tensor]] = []
    backward = objective.backward

    def recorded(batch: DistillationBatch, *, step: int) -> dict[str, Tensor]:
        figures.append(backward(batch, step=step))
        return figures[-1]

    objective.backward = recorded  # type: ignore[method-assign]
    loop = loop_of(run, tmp_path, objective)
    loop.batches = Same()
    loop.run()
    for name in ("loss", "patch", "cls", "class", "token"):
        first, last = (sum(float(f[name]) for f in part) for part in (figures[:5], figures[-5:]))
        assert last < 0.9 * first, name
    assert {int(f["glimpses"]) for f in figures} == {2, 3}


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(RUN, steps=8, save_every=2)
    objective = objective_of(run)
    backward = objective.backward

    def poisoned(batch: DistillationBatch, *, step: int) -> dict[str, Tensor]:
        if step == 4:
            batch = batch._replace(patches=torch.full((4, 16, DIM), torch.nan),
                                   cls=torch.zeros(4, DIM))  # fmt: skip
        return backward(batch, step=step)

    monkeypatch.setattr(objective, "backward", poisoned)
    with pytest.raises(TrainingDiverged, match="loss is nan in step 4; .* lower learning"):
        loop_of(run, tmp_path, objective).run()
    snapshot = torch.load(tmp_path / "training.pt", weights_only=True)
    assert snapshot["step"] == 4
    for state in (snapshot["model"], CanViTForPretraining.from_pretrained(tmp_path).state_dict()):
        assert all(x.isfinite().all() for x in state.values())


def test_validation_measures_what_was_not_trained_on(tmp_path: Path) -> None:
    held_out = batch_of(EmojiScenes(split="backbone"), range(20, 26))
    objective = objective_of(RUN, validation=held_out)
    before = {name: x.clone() for name, x in objective.model.state_dict().items()}
    figures = objective.validate()
    assert figures == objective.validate()
    for name in ("patch_cos_standardized", "patch_cos_raw", "cls_cos_standardized", "cls_cos_raw"):
        assert len(figures[name]) == 3 and all(-1 <= x <= 1 for x in figures[name])
    assert (6 * figures["teacher_top1"]) == pytest.approx(round(6 * figures["teacher_top1"]))
    for name, tensor in objective.model.state_dict().items():
        assert torch.equal(before[name], tensor), name
    # A student that knows the answers has cosines of one, and the teacher's accuracy.
    features = TinyTeacher()(held_out.pictures)
    kept = objective.kept
    patches = kept.teacher_patch_standardizer(features.patches)
    cls = kept.teacher_cls_standardizer(features.cls[:, None])[:, 0]
    kept.predict_teacher_patches = lambda state: patches[: len(state.canvas)]  # type: ignore
    kept.predict_teacher_cls = lambda state: cls[: len(state.canvas)]  # type: ignore
    objective.validation = held_out.part(slice(0, 4))
    perfect = objective.validate()
    for name in ("patch_cos_standardized", "patch_cos_raw", "cls_cos_standardized", "cls_cos_raw"):
        assert perfect[name] == pytest.approx([1.0] * 3, abs=1e-5)
    assert perfect["top1"] == [perfect["teacher_top1"]] * 3


def test_a_validation_that_fails_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(RUN, steps=2)
    objective = objective_of(run)

    def fails() -> dict[str, Any]:
        raise RuntimeError("the storage of validation pictures is gone")

    monkeypatch.setattr(objective, "validate", fails)
    loop = loop_of(run, tmp_path, objective)
    loop.pace = replace(loop.pace, validate_every=1)
    loop.run()
    errors = [line["error"] for line in log_of(tmp_path) if "error" in line]
    assert errors == ["RuntimeError: the storage of validation pictures is gone"] * 2


def test_statistics_in_parts_are_those_of_the_whole() -> None:
    features = torch.randn(50, 16, 3, generator=torch.Generator().manual_seed(0)) * 3 + 100
    for per_channel in (False, True):
        moments = RunningMoments()
        for part in features.split(7):
            moments.add(part)
        standardizer = Standardizer(num_positions=16, dim=3)
        moments.give(standardizer, per_channel=per_channel)
        # float64 sums of values near 100 leave some 1e-10 of the variance
        over = (0, 1) if per_channel else 0
        double = features.double()
        mean, var = double.mean(over), double.var(over, unbiased=False)
        torch.testing.assert_close(
            standardizer.mean.double(), mean.expand(16, 3), rtol=1e-6, atol=0
        )
        torch.testing.assert_close(standardizer.var.double(), var.expand(16, 3), rtol=1e-6, atol=0)


def test_statistics_are_taken_over_the_first_scenes() -> None:
    run = replace(RUN, statistics_scenes=6)
    objective = objective_of(run)
    batches = batches_of(run)
    features = TinyTeacher()(torch.cat([batches[0].pictures, batches[1].pictures])[:6])
    torch.testing.assert_close(
        objective.kept.teacher_patch_standardizer.mean,
        features.patches.mean(0),
        rtol=1e-4,
        atol=1e-5,
    )


def test_rollouts_follow_the_length_law_and_begin_as_asked() -> None:
    run = replace(RUN, scenes_per_step=40, rollouts=(1.0, 0.6, 0.0), min_scale=0.25)
    objective = objective_of(replace(run, scenes_per_step=4))
    objective.run = run
    shares = torch.zeros(3)
    for step in range(20):
        plan = objective.rollouts(step)
        assert len({len(views) for views in plan}) == 1
        for views in plan:
            for view in views:
                check_inside(view)
                assert view.scales.min() >= 0.25
            assert all(bool((view.scales < 1).all()) for view in views[1:])
        shares += torch.stack([(views[0].scales == 1).float().mean() for views in plan])
    assert shares[0] == 20 and shares[2] == 0
    assert abs(shares[1] / 20 - 0.6) < 5 * (0.6 * 0.4 / 800) ** 0.5
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([float(draw_length(run, generator=generator)) for _ in range(2000)])
    assert set(lengths.tolist()) >= {2, 4, 6, 8} and not (lengths % 2).any()
    # 2 times a geometric number of mean 2 and deviation sqrt(2)
    assert abs(lengths.mean() - 4) < 5 * 2 * 2**0.5 / 2000**0.5


def test_coarse_to_fine_shows_every_tile_once() -> None:
    views = coarse_to_fine(6, num_glimpses=21, generator=torch.Generator().manual_seed(0))
    assert len(views) == 21
    assert [float(view.scales[0]) for view in views] == [1.0] + [0.5] * 4 + [0.25] * 16
    orders = set()
    for scene in range(6):
        quarters = [tuple(view.centers[scene].tolist()) for view in views[5:]]
        assert len(set(quarters)) == 16
        orders.add(tuple(quarters))
    assert len(orders) == 6


def test_features_are_read_where_the_glimpse_looks() -> None:
    """Row before col: a map whose value is its row, and one whose value is its column."""
    maps = grid_centers(8)[None]
    view = Viewpoint(centers=torch.tensor([[0.3, -0.4]]), scales=torch.tensor([0.25]))
    torch.testing.assert_close(features_at(maps, view, 4), grid_in_scene(view, 4))


def test_augmentation_depends_on_seed_and_step_alone() -> None:
    run = replace(RUN, flip=True, crop_area=0.3)
    first, again = batches_of(run), batches_of(run)
    again[3]
    assert torch.equal(first[1].pictures, again[1].pictures)
    plain = batches_of(RUN)
    assert torch.equal(plain[1].labels, first[1].labels)
    assert not torch.equal(plain[1].pictures, first[1].pictures)
    other = batches_of(replace(run, seed=1))
    assert not torch.equal(other[1].pictures, first[1].pictures)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "rollouts": ({"rollouts": ()}, "rollouts is"),
    "share": ({"rollouts": (2.0,)}, "rollouts is"),
    "losses": ({"patch_loss": 0.0, "cls_loss": 0.0}, "weight 0"),
    "sizes": ({"scene_size_px": 256}, "give picture_size_px at least as many"),
    "rates": ({"start_lr": 1.0}, "give 0 < start_lr <= lr"),
    "nan": ({"lr": float("nan")}, "lr is nan"),
    "steps": ({"steps": 0}, "steps is 0"),
    "stop": ({"stop_probability": 0.0}, "stop_probability is 0.0"),
}


@pytest.mark.parametrize("changes, said", BAD.values(), ids=BAD)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(RUN, **changes)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match="class_loss and label_loss need the teacher's classifier"):
        DistillationObjective(replace(RUN, class_loss=1.0), teacher_dim=DIM)
    objective = DistillationObjective(RUN, teacher_dim=DIM)
    with pytest.raises(ValueError, match="bring no features, and there is no teacher"):
        objective.fit_standardizers(head_start(batches_of(RUN), RUN))
    objective = DistillationObjective(
        replace(RUN, canvas_grid_size=5), teacher_dim=DIM, teacher=TinyTeacher()
    )
    with pytest.raises(ValueError, match=r"features are \[16, 12\] .* takes \[25, 12\]"):
        objective.fit_standardizers(head_start(batches_of(RUN), RUN))


def test_mirrored_features_are_those_of_the_mirrored_picture() -> None:
    pictures = torch.stack(
        [torch.from_numpy(EmojiScenes(split="backbone")[i].picture) for i in range(2)]
    )
    cells = pictures.float().unflatten(1, (4, 32)).unflatten(3, (4, 32))
    colours = cells.sum((2, 4)).flatten(1, 2)  # a symmetric teacher; float32 holds these exactly
    batch = DistillationBatch(pictures, torch.zeros(2), colours, colours.mean(1))
    mirrored = _mirrored(batch, torch.tensor([True, False]))
    assert torch.equal(mirrored.pictures[0], pictures[0].flip(1))
    assert torch.equal(mirrored.pictures[1], pictures[1])
    again = mirrored.pictures.float().unflatten(1, (4, 32)).unflatten(3, (4, 32))
    assert torch.equal(mirrored.patches, again.sum((2, 4)).flatten(1, 2))


def test_label_loss_is_the_cross_entropy_of_the_fused_classifier() -> None:
    run = replace(RUN, patch_loss=0.0, cls_loss=0.0, label_loss=1.0, lengths=(1,), rollouts=(1.0,))
    objective = objective_of(run)
    batch = batches_of(run)[0]
    batch = batch._replace(labels=torch.tensor([3, -1, 0, -1]))
    found = objective.backward(batch, step=0)["label"]
    assert objective.classifier is not None
    weight, bias = objective.classifier
    fused = CanViTForImageClassification.fuse(objective.kept, probe_weight=weight, probe_bias=bias)
    full = Viewpoint.full_scene(batch_size=4)
    glimpse = sample_at_viewpoint(
        spatial=normalize(batch.pictures), viewpoint=full, glimpse_size_px=32
    )
    state = fused.init_state(batch_size=4, canvas_grid_size=4)
    logits, _ = fused(glimpse=glimpse, state=state, viewpoint=full)
    wanted = torch.nn.functional.cross_entropy(logits[[0, 2]], torch.tensor([3, 0])) / 2
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="label_loss need the teacher's classifier"):
        DistillationObjective(run, teacher_dim=DIM)


@pytest.mark.slow
def test_compiled_backward_is_that_of_the_plain_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast, with several backward passes outside it, as on a GPU."""
    config = torch._functorch.config
    monkeypatch.setattr(config, "backward_pass_autocast", config.backward_pass_autocast)
    run = replace(RUN, precision="bfloat16", scenes_per_step=2, statistics_scenes=2)
    found = []
    for compiled in (False, True):
        objective = objective_of(run)
        if compiled:
            compile_core(objective.kept.canvit, backend="aot_eager")
        peaks, batch = peaks_of(objective), batches_of(run)[0]
        steps = [update(objective, batch, step=step, peaks=peaks) for step in range(2)]
        found.append(torch.tensor([[float(s["loss"]), float(s["grad_norm"])] for s in steps]))
    # bfloat16 rounds to 2^-8 of a value; sums of many such values lie nearer.
    torch.testing.assert_close(found[1], found[0], rtol=2**-8, atol=0)
