"""The published evaluation on ADE20K from one command: its numbers are the reference's own."""

from __future__ import annotations

import importlib
import json
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
