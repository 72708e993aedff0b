"""Named tensors in one vector: views that lie where the layout says, however the names came."""

from __future__ import annotations

import pytest
import torch

from fedkd.flat import FlatArrays, Layout

ARRAYS = {
    "w": torch.arange(6.0).view(2, 3),
    "kernel": torch.arange(24.0).view(2, 3, 2, 2),
    "b": torch.tensor(7.0),
}


def test_arrays_come_back_as_they_were_and_are_views_of_the_vector():
    flat = FlatArrays.of(ARRAYS)
    assert list(flat) == list(ARRAYS)
    assert len(flat) == len(ARRAYS)
    assert flat.vector.numel() == 6 + 24 + 1 == flat.layout.size
    for name, array in ARRAYS.items():
        assert torch.equal(flat[name], array)
    flat.vector.zero_()
    assert all(not array.any() for array in flat.values())


def test_kernels_lie_with_their_channels_last():
    kernel = FlatArrays.of(ARRAYS)["kernel"]
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(KeyError, match="missing"):
        FlatArrays.of(ARRAYS)["missing"]


def test_what_is_laid_out_already_is_not_copied_and_what_is_not_is_put_in_order():
    flat = FlatArrays.of(ARRAYS)
    assert FlatArrays.of(flat) is flat
    assert FlatArrays.of(flat, Layout.of((n, a.shape) for n, a in ARRAYS.items())) is flat
    turned = dict(reversed(ARRAYS.items()))
    assert FlatArrays.of(turned).layout != flat.layout
    assert torch.equal(FlatArrays.of(turned, flat.layout).vector, flat.vector)


def test_layouts_of_the_same_names_and_shapes_are_equal():
    one, other = (Layout.of([("a", (2, 3)), ("b", (4,))]) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Layout.of([("a", (3, 2)), ("b", (4,))])


def test_whole_numbers_stay_what_they_are():
    counts = {"n": torch.tensor([2**40])}
    assert FlatArrays.where_plain(counts) is counts
    assert isinstance(FlatArrays.where_plain(dict(ARRAYS)), FlatArrays)


def test_views_of_many_rows_at_once():
    flat = FlatArrays.of(ARRAYS)
    rows = torch.stack([flat.vector, 2 * flat.vector])
    for part in flat.layout.parts:
        both = part.of(rows)
        assert torch.equal(both[0], ARRAYS[part.name])
        assert torch.equal(both[1], 2 * ARRAYS[part.name])
