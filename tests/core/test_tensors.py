"""Safetensors on disk: round trips, identical bytes, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shammie.core import files
from shammie.core.errors import DataError, MissingFileError

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool])


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.lists(st.integers(0, 4), max_size=3), DTYPES), max_size=4),
)
def test_tensors_round_trip_to_identical_bytes(tmp_path_factory, shapes):
    base = tmp_path_factory.getbasetemp()
    tensors = {f"t{i}": (torch.randn(shape) * 3).to(dtype) for i, (shape, dtype) in enumerate(shapes)}
    for name in ("one", "two"):
        files.save_tensors(base / name, tensors)
    assert (base / "one").read_bytes() == (base / "two").read_bytes()
    loaded = files.load_tensors(base / "one")
    assert loaded.keys() == tensors.keys()
    assert all(
        torch.equal(loaded[name], tensors[name]) and loaded[name].dtype == tensors[name].dtype for name in tensors
    )


def test_views_and_shared_storage_are_saved_as_they_look(tmp_path):
    x = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    files.save_tensors(tmp_path / "a", {"x": x, "again": x, "turned": x.t(), "row": x[1:2]})
    loaded = files.load_tensors(tmp_path / "a")
    assert torch.equal(loaded["turned"], x.detach().t())
    assert torch.equal(loaded["row"], x.detach()[1:2])
    assert torch.equal(loaded["again"], loaded["x"])


@settings(max_examples=60, deadline=None)
@given(keep=st.floats(0, 0.999))
def test_truncated_tensors_are_refused(tmp_path_factory, keep):
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    files.save_tensors(path, {"a": torch.ones(5), "b": torch.zeros(3, 3)})
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(DataError, match=r"cut\.safetensors is corrupt or truncated"):
        files.load_tensors(path)


def test_tensors_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(MissingFileError, match="none does not exist"):
        files.load_tensors(tmp_path / "none")
    with pytest.raises(DataError, match="cannot read"):
        files.load_tensors(tmp_path)
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="noise is corrupt"):
        files.load_tensors(tmp_path / "noise")
