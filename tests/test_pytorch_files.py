"""Published weights in files of PyTorch: named tensors and nothing else, which no code of the file makes."""

import sys

import pytest

from purimetry.compression import weights
from purimetry.compression.records import RecordError


class Harmful:
    def __reduce__(self):
        return open, ("harm", "w")


def test_a_pytorch_file_without_torch_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ImportError, match="install torch, or convert the file to .safetensors"):
        weights.load_published(tmp_path / "weights.pth")


@pytest.mark.peer
@pytest.mark.parametrize("name", weights.NESTED)
def test_training_checkpoints_hold_the_state_dict_under_a_known_name(name, tmp_path):
    torch = pytest.importorskip("torch")
    flat = {"module.conv1.weight": torch.arange(3, dtype=torch.float16), "module.count": torch.tensor(7)}
    torch.save({name: flat, "epoch": 200, "optimizer": {"lr": 0.1}}, tmp_path / "w.pth")
    found = weights.load_published(tmp_path / "w.pth")
    assert {key: (array.dtype.name, array.tolist()) for key, array in found.items()} == {
        "conv1.weight": ("float32", [0.0, 1.0, 2.0]), "count": ("int64", 7)}


@pytest.mark.peer
def test_parameters_are_read_as_the_tensors_that_they_are(tmp_path):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(2, 1)
    torch.save(dict(layer.named_parameters()), tmp_path / "w.pth")
    found = weights.load_published(tmp_path / "w.pth")
    assert {name: array.tolist() for name, array in found.items()} == {
        name: tensor.tolist() for name, tensor in layer.state_dict().items()}


@pytest.mark.peer
@pytest.mark.parametrize("changed", [
    lambda tensor: tensor.to_sparse(), lambda tensor: tensor.to("meta"),
], ids=["sparse", "without content"])
def test_tensors_that_cannot_become_arrays_are_named(changed, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"bias": torch.ones(2), "conv.weight": changed(torch.eye(2))}, tmp_path / "w.pth")
    with pytest.raises(RecordError, match=r"w.pth: conv.weight cannot become an array .*; save it as a dense tensor"):
        weights.load_published(tmp_path / "w.pth")


@pytest.mark.peer
@pytest.mark.parametrize("content, message", [
    ({"weights": {"a": 1}}, "not a flat dictionary of named tensors, nor has it one under state_dict, "),
    ({"state_dict": {"model": {}}}, "not a flat dictionary"),  # one level
    ({"model": {}, "ema": {}}, "holds several state dicts, model, ema; save the one that is meant"),
    ({"a": Harmful()}, "holds more than tensors"), ({"a": {"b": 1}}, "not a flat dictionary"), ([1], "not a flat dict"),
    (None, "damaged"),
])
def test_pytorch_files_hold_named_tensors_or_are_refused(content, message, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.save(content, "w.pth")
    if content is None:
        (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:100])
    with pytest.raises(RecordError, match=message):
        weights.load_published("w.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.peer
def test_tensors_that_are_numbered_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({0: torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(RecordError, match="not a flat dictionary of named tensors"):
        weights.load_published(tmp_path / "w.pth")
