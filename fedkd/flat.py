"""Named tensors as parts of one vector of numbers, which can be copied, added and sent at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where one tensor lies in a vector."""

    name: str
    shape: tuple[int, ...]
    start: int

    def of(self, rows: Tensor) -> Tensor:
        """Return views ``[..., *shape]`` of ``[..., size]``; images' weights channels last.

        With one input channel the strides of such a weight are ambiguous, and torch would take
        its slow path; they are spelled out.
        """
        flat = rows[..., self.start : self.start + math.prod(self.shape)]
        if len(self.shape) != 4:
            return flat.view((*flat.shape[:-1], *self.shape))
        _, inputs, height, width = self.shape
        lead, steps = flat.shape[:-1], flat.stride()[:-1]
        inner = (height * width * inputs, 1, width * inputs, inputs)
        return flat.as_strided((*lead, *self.shape), (*steps, *inner))


@dataclass(frozen=True)
class Layout:
    """Where named tensors lie, one after the other.

    Attributes:
        parts: in their order.
        size: numbers of all of them.
    """

    parts: tuple[Part, ...]
    size: int = field(init=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out once what is asked often."""
        object.__setattr__(self, "size", sum(math.prod(part.shape) for part in self.parts))
        object.__setattr__(self, "_hash", hash(self.parts))

    def __hash__(self) -> int:
        """Return the hash that was worked out once."""
        return self._hash

    @staticmethod
    def of(named: Iterable[tuple[str, Sequence[int]]]) -> Layout:
        """Lay tensors of these names and shapes out."""
        parts: list[Part] = []
        start = 0
        for name, shape in named:
            parts.append(Part(name=name, shape=tuple(shape), start=start))
            start += math.prod(shape)
        return Layout(tuple(parts))


class FlatArrays(Mapping[str, Tensor]):
    """Tensors by name that are views of one vector.

    Attributes:
        vector: float32 ``[size]``.
        layout: which part of it is which tensor.
    """

    __slots__ = ("layout", "vector")

    def __init__(self, vector: Tensor, layout: Layout) -> None:
        self.vector, self.layout = vector, layout

    @staticmethod
    def of(arrays: Mapping[str, Tensor], layout: Layout | None = None) -> FlatArrays:
        """Return arrays in a layout, in that of their own order for None; float32.

        What is in that layout is returned as it is, anything else is copied.
        """
        if isinstance(arrays, FlatArrays) and layout in (None, arrays.layout):
            return arrays
        if layout is None:
            layout = Layout.of((name, array.shape) for name, array in arrays.items())
        device = next(iter(arrays.values())).device if arrays else None
        vector = torch.empty(layout.size, device=device)
        for part in layout.parts:
            part.of(vector).copy_(arrays[part.name])
        return FlatArrays(vector, layout)

    @staticmethod
    def where_plain(arrays: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """Return arrays that are all float32 flat, and others as they are."""
        plain = all(array.dtype == torch.float32 for array in arrays.values())
        return FlatArrays.of(arrays) if plain else arrays

    def __getitem__(self, name: str) -> Tensor:
        """Return a view."""
        for part in self.layout.parts:
            if part.name == name:
                return part.of(self.vector)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """Go through the names in their order."""
        return (part.name for part in self.layout.parts)

    def __len__(self) -> int:
        """Return how many tensors there are."""
        return len(self.layout.parts)
