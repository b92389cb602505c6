"""The published evaluation on ADE20K from one command: its numbers are the reference's own."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from canvit_agents.cli.main import main
from canvit_agents.judging.evaluate import summarize
from canvit_agents.judging.evidence import load_evidence
from canvit_gym.model import config
from canvit_gym.model.heads import CanViTForPretraining
from canvit_gym.model.segmentation import SegmentationProbe

SIZE_PX, GRID, BUDGET = 48, 8, 20
DETERMINISTIC = ("repeated_full_scene", "entropy_coarse_to_fine")
TINY = {"num_heads": 2, "num_blocks": 2}


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three validation pairs of other shapes, with a few classes in large patches."""
    root = tmp_path_factory.mktemp("ADEChallengeData2016")
    rng = np.random.default_rng(0)
    for i, shape in enumerate(((60, 80), (75, 50), (48, 48))):
        picture = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        mask = Image.fromarray(rng.choice([0, 1, 2, 5, 150], (5, 5)).astype(np.uint8))
        for kind, image, how, suffix in (
            ("images", picture, Image.Resampling.BICUBIC, "jpg"),
            ("annotations", mask, Image.Resampling.NEAREST, "png"),
        ):
            folder = root / kind / "validation"
            folder.mkdir(parents=True, exist_ok=True)
            image.resize(shape[::-1], how).save(folder / f"ADE_val_{i + 1:08}.{suffix}")
    return root


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A backbone and an ADE20K probe with random weights in the published format; the backbone is
    smaller than any published one, so both implementations are told of its size."""
    root = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        spec = config.BackboneSpec(dim=32, patch_size_px=16, layerscale=1.0, **TINY)
        patch.setitem(config.BACKBONES, "mini8", spec)
        torch.manual_seed(0)
        small = {"canvas_num_heads": 2, "canvas_head_dim": 16, "num_canvas_registers": 3}
        backbone = CanViTForPretraining(
            canvit_config=config.CanViTConfig(backbone_name="mini8", **small),
            teacher_dim=8,
            teacher_patch_grid=4,
        )
        probe = SegmentationProbe(embed_dim=32, num_classes=150, dropout=0.1, use_ln=True)
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
            # Two pairs of opposites, of which one always leads: each pixel is given one of the
            # four classes that the masks have, whatever the random numbers are.
            weight = probe.conv.weight.normal_(std=0.01)
            for one, other in ((0, 1), (4, 149)):
                weight[one] *= 100
                weight[other] = -weight[one]
        backbone.save_pretrained(root / "backbone")
        probe.save_pretrained(root / "probe")
    return str(root / "backbone"), str(root / "probe")


@pytest.fixture(scope="module")
def evaluation(
    ade20k: Path, checkpoints: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("out")
    backbone, probe = checkpoints
    arguments = ["evaluate", "--env", "CanViT-ADE20K-v0", "--split", "test"]
    arguments += ["--policies", "coarse_to_fine", "full_then_random", *DETERMINISTIC]
    arguments += ["--budget", str(BUDGET), "--scenes-root", str(ade20k), "--out", str(out)]
    arguments += ["--env-kwargs", f"backbone={backbone}", f"probe={probe}"]
    arguments += [f"canvas_grid_size={GRID}", f"scene_size_px={SIZE_PX}"]
    with pytest.MonkeyPatch.context() as patch:
        spec = config.BackboneSpec(dim=32, patch_size_px=16, layerscale=1.0, **TINY)
        patch.setitem(config.BACKBONES, "mini8", spec)
        assert main(arguments) == 0
    return out


@pytest.fixture
def summary(evaluation: Path) -> dict[str, Any]:
    return json.loads((evaluation / "summary.json").read_text())


def rows_of(evaluation: Path, policy: str) -> Path:
    manifest = json.loads((evaluation / "manifest.json").read_text())
    return evaluation / manifest["policies"][policy]["file"]


@pytest.fixture
def reference_task(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The reference's own evaluation; it imports transformers for a teacher that it does not need
    here, and is told of the small backbone."""
    pytest.importorskip("canvit_pytorch")
    backbones = importlib.import_module("canvit_core.backbone")
    spec = backbones.ViTSpec(embed_dim=32, patch_size=16, layerscale_init=1.0, **TINY)
    monkeypatch.setitem(backbones.BACKBONES, "mini8", spec)
    transformers: Any = ModuleType("transformers")
    transformers.AutoModel = transformers.PreTrainedModel = object
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    return importlib.import_module("canvit_pytorch.evaluate.tasks.ade20k_segmentation")


@pytest.mark.parametrize("policy", [*DETERMINISTIC, "coarse_to_fine"])
@torch.inference_mode()
def test_mean_iou_is_the_references(
    policy: str,
    ade20k: Path,
    checkpoints: tuple[str, str],
    evaluation: Path,
    summary: dict[str, Any],
    reference_task: Any,
) -> None:
    import canvit_pytorch as reference
    from canvit_pytorch.benchmarks import ade20k as benchmark

    backbone, probe = checkpoints
    model = reference.CanViTForSemanticSegmentation.from_pretrained_with_probe(
        pretrained_repo=backbone, probe_repo=probe
    ).eval()
    dataset = benchmark.ADE20kDataset(
        root=ade20k, split="validation", transform=benchmark.evaluation_transform(SIZE_PX)
    )
    images, labels = (torch.stack(parts) for parts in zip(*dataset, strict=True))
    viewpoints = torch.from_numpy(load_evidence(rows_of(evaluation, policy)).seen.viewpoints)

    if policy in DETERMINISTIC:  # then the reference also chooses the same
        protocol = reference_task.EpisodeConfig(
            policy=policy, num_glimpses=BUDGET + 1, canvas_grid_size=GRID
        )
        steps = protocol.rollout(canvit=model.canvit, images=images, canvas_logits=model.logits)
        canvases = [step.state.canvas for step in steps]
        for step, taken in zip(steps, viewpoints.unbind(dim=1), strict=True):
            torch.testing.assert_close(step.viewpoint.centers, taken[:, :2])
            torch.testing.assert_close(step.viewpoint.scales, taken[:, 2])
    else:
        canvases = []
        state = model.init_state(batch_size=3, canvas_grid_size=GRID)
        for taken in viewpoints.unbind(dim=1):
            where = reference.Viewpoint(centers=taken[:, :2], scales=taken[:, 2])
            glimpse = reference.sample_at_viewpoint(
                spatial=images, viewpoint=where, glimpse_size_px=128
            )
            state = model.canvit(glimpse=glimpse, state=state, viewpoint=where).state
            canvases.append(state.canvas)

    expected, pixels = [], []
    for canvas in canvases:
        predicted = reference_task.predicted_labels(model.logits(canvas), size_px=SIZE_PX)
        metric = benchmark.MeanIoU(device=images.device)
        metric.update(predicted, labels)
        expected.append(metric.compute())
        right = (predicted == labels).sum(dim=(1, 2))
        pixels.append((right / (labels != benchmark.IGNORE_LABEL).sum(dim=(1, 2))).mean())
    assert len(expected) == BUDGET + 1 and max(expected) > 0.01 and np.std(expected) > 1e-3
    row = summary["policies"][policy]
    assert row["mean_iou"] == pytest.approx(expected, abs=1e-6)
    assert row["pixel_accuracy"] == pytest.approx([float(p) for p in pixels], abs=1e-6)


def test_the_summary_is_one_of_a_segmentation(evaluation: Path, summary: dict[str, Any]) -> None:
    assert (summary["num_scenes"], summary["budget"], summary["split"]) == (3, BUDGET, "test")
    row = summary["policies"]["coarse_to_fine"]
    assert "accuracy" not in row and len(row["mean_iou"]) == BUDGET + 1
    assert row["scanpath"]["coverage"] == pytest.approx(1) and row["scanpath"]["revisits"] == 0
    difference = summary["paired"]["coarse_to_fine - full_then_random"]
    first, other = (
        np.array(summary["policies"][name]["mean_iou"])
        for name in ("coarse_to_fine", "full_then_random")
    )
    np.testing.assert_allclose(difference["difference"], first - other)
    loaded = {name: load_evidence(rows_of(evaluation, name)) for name in summary["policies"]}
    assert summarize(loaded) == summary


def test_the_evidence_has_intersections_and_unions(evaluation: Path) -> None:
    table = pq.read_table(rows_of(evaluation, "coarse_to_fine"))
    assert len(table) == 3 * (BUDGET + 1)
    assert table["scene_name"].to_pylist()[:: BUDGET + 1] == [
        f"images/validation/ADE_val_{i:08}.jpg" for i in (1, 2, 3)
    ]
    for name in ("intersection", "union"):
        assert {len(counts) for counts in table[name].to_pylist()} == {150}
    manifest = json.loads((evaluation / "manifest.json").read_text())
    assert manifest["metric"] == {"name": "mean_iou", "label_size_px": SIZE_PX}
    assert manifest["num_glimpses"] == 21


def test_mask_rows_hold_each_mask_and_its_area(
    evaluation: Path,
    ade20k: Path,
    summary: dict[str, Any],
    reference_task: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from canvit_pytorch.benchmarks import ade20k as benchmark

    spec = config.BackboneSpec(dim=32, patch_size_px=16, layerscale=1.0, **TINY)
    monkeypatch.setitem(config.BACKBONES, "mini8", spec)
    out = tmp_path / "masks.parquet"
    assert main(["masks", str(evaluation), "--out", str(out)]) == 0
    rows = pq.read_table(out).to_pylist()

    dataset = benchmark.ADE20kDataset(
        root=ade20k, split="validation", transform=benchmark.evaluation_transform(SIZE_PX)
    )
    for row in rows:
        label = dataset[row["scene"]][1]
        assert row["gt_area_px"] == int((label == row["class_id"]).sum())
        assert row["inter_px"] <= row["gt_area_px"] <= row["union_px"] and row["union_px"] > 0
    # No mask is missing, and all together they are the mean IoU of the run.
    masks = {(i, int(c)) for i in range(3) for c in dataset[i][1].unique() if c != 255}
    for policy, figures in summary["policies"].items():
        for t in (0, BUDGET):
            these = [row for row in rows if row["policy"] == policy and row["t"] == t]
            assert masks <= {(row["scene"], row["class_id"]) for row in these}
            of_class: dict[int, list[int]] = {}
            for row in these:
                sums = of_class.setdefault(row["class_id"], [0, 0])
                sums[0] += row["inter_px"]
                sums[1] += row["union_px"]
            iou = np.mean([inter / union for inter, union in of_class.values()])
            assert iou == pytest.approx(figures["mean_iou"][t], abs=1e-9)


def test_mask_rows_of_another_task_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["evaluate", "--env", "CanViT-Emoji-v0", "--policies", "random", "--scenes", "2"]
    assert main([*arguments, "--budget", "1", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["masks", str(run), "--out", str(tmp_path / "x.parquet")]) == 2
    error = capsys.readouterr().err
    assert "is a run of CanViT-Emoji-v0, which has no masks" in error and error.count("\n") == 1


def test_mask_rows_of_other_pictures_are_refused(
    evaluation: Path,
    ade20k: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = config.BackboneSpec(dim=32, patch_size_px=16, layerscale=1.0, **TINY)
    monkeypatch.setitem(config.BACKBONES, "mini8", spec)
    kept, path = tmp_path / "kept.png", next((ade20k / "annotations/validation").glob("*2.png"))
    shutil.copy(path, kept)
    try:
        with Image.open(kept) as mask:
            Image.new("L", mask.size, 3).save(path)
        assert main(["masks", str(evaluation), "--out", str(tmp_path / "x.parquet")]) == 2
    finally:
        shutil.copy(kept, path)
    error = capsys.readouterr().err
    assert "Scene 1 (" in error and "another one than in the run" in error
    assert error.count("\n") == 1 and not (tmp_path / "x.parquet").exists()
