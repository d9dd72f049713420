"""Checkpoints are read as they were written, or not at all."""

from __future__ import annotations

import pytest
import torch

from wm_pipelines.learning.checkpoints import Checkpoint, CheckpointStore, read_tensors, tensors_to_bytes

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7)}


def test_equal_content_is_equal_bytes_and_comes_back(tmp_path):
    data = tensors_to_bytes(TENSORS, {"x": 1, "y": [2]})
    assert data == tensors_to_bytes(dict(reversed(TENSORS.items())), {"y": [2], "x": 1})
    (tmp_path / "one.safetensors").write_bytes(data)
    found = read_tensors(tmp_path / "one.safetensors")
    assert found.facts == {"x": 1, "y": [2]}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_one_changed_bit_of_a_weight_is_noticed(tmp_path, caplog):
    store = CheckpointStore(tmp_path)
    store.save("one", Checkpoint(TENSORS, {"fingerprint": "f"}))
    path = tmp_path / "one.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="does not match its hash"):
        read_tensors(path)
    assert store.load("one", "f") is None
    assert "starts from the beginning" in caplog.text
