"""What leaves the model's device arrives as it was, and all at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from canvit_gym.envs import transfer
from canvit_gym.envs.transfer import in_one_transfer, to_numpy

TENSORS = {
    "bool": torch.tensor([True, False, True]),
    "float32": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "uint8": torch.arange(5, dtype=torch.uint8),
    "int64": torch.tensor([[2**40, -1]]),
    "number": torch.tensor(2.5, dtype=torch.float64),
    "nothing": torch.empty(0, 7),
}


def test_one_transfer_keeps_numbers_shapes_and_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    count, cpu = 0, torch.Tensor.cpu

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    copies = in_one_transfer(list(TENSORS.values()))
    assert count == 1
    for copy, (name, tensor) in zip(copies, TENSORS.items(), strict=True):
        assert copy.dtype == tensor.dtype and torch.equal(copy, tensor), name
        assert not copy.numel() or copy.data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize("on_cpu", [True, False])
def test_dicts_keep_their_form(monkeypatch: pytest.MonkeyPatch, on_cpu: bool) -> None:
    """Also as it goes where tensors are elsewhere."""
    if not on_cpu:
        monkeypatch.setattr(transfer, "_on_cpu", lambda tensors: False)
    tree = {"a": TENSORS["int64"], "b": {"c": TENSORS["bool"], "d": {"e": TENSORS["transposed"]}}}
    arrays = to_numpy(tree)
    assert list(arrays) == ["a", "b"] and list(arrays["b"]) == ["c", "d"]
    for array, tensor in (
        (arrays["a"], tree["a"]), (arrays["b"]["c"], tree["b"]["c"]),
        (arrays["b"]["d"]["e"], tree["b"]["d"]["e"]),
    ):  # fmt: skip
        assert isinstance(array, np.ndarray) and array.flags.writeable
        np.testing.assert_array_equal(array, tensor.numpy())
        assert np.shares_memory(array, tensor.numpy()) == on_cpu
