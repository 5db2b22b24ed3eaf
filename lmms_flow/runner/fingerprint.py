"""Hashes of tensors where they are: all their bytes, at the speed at which memory is read.

On a processor by xxHash (128 bits), 5 to 10 GB a second on one core. On a GPU by a weighted sum modulo 2^64, so that
14 GB take a fraction of a second and nothing leaves the device.
"""

from __future__ import annotations

from typing import Any

import torch
import xxhash
from torch import Tensor

CHUNK = (
    1 << 24
)  # words of 64 bits that are looked at at once on a device: 128 MiB, a few of them for what is computed
WORD = 8  # bytes


class Fingerprints:
    """Hashes of many tensors; those that share their memory (tied weights) are read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], str] = {}

    def of(self, tensor: Tensor) -> str:
        """Type, shape and a hash of all the numbers, bit for bit."""
        inner = _parts(tensor)
        if inner is not None:
            return "|".join([type(tensor).__name__, *map(self.of, inner)])
        if tensor.numel() == 0:
            return f"{tensor.dtype}{tuple(tensor.shape)}"
        tensor = tensor.detach()
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if key not in self._known:
            self._known[key] = f"{tensor.dtype}{tuple(tensor.shape)}:{_hash(tensor)}"
        return self._known[key]


def _parts(tensor: Tensor) -> list[Tensor] | None:
    """The plain tensors inside one of a class of its own (quantised, distributed); None for a plain one."""
    if hasattr(tensor, "to_local"):
        return [tensor.to_local()]
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [getattr(tensor, name) for name in names]
    return None


def _hash(tensor: Tensor) -> str:
    raw = tensor.contiguous().flatten().view(torch.uint8)
    if raw.device.type == "cpu":
        return xxhash.xxh3_128_hexdigest(raw.numpy())  # type: ignore[arg-type]  # an array is a buffer
    whole = len(raw) // WORD * WORD
    rest = bytes(raw[whole:].cpu().tolist()).hex()
    words = raw[:whole]
    if words.data_ptr() % WORD:  # a view into the middle of another tensor
        words = words.clone()
    return f"{weighted_sum(words.view(torch.int64)):016x}-{rest}"


def weighted_sum(words: Tensor) -> int:
    """A hash of 64-bit words, on their own device.

    Each word is folded (its high half into its low one), multiplied by an odd number that is drawn from its place, and
    added up modulo 2^64: one word that differs always shows, words that change places or values all but always (2^-48
    or less).
    """
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for start in range(0, len(words), CHUNK):
        part = words[start : start + CHUNK]
        places = torch.arange(start, start + len(part), dtype=torch.int64, device=words.device)
        total += ((part ^ (part >> 32)) * _odd(places)).sum()
    return int(total) & (1 << 64) - 1


def _odd(places: Tensor) -> Tensor:
    """A random odd number for each place: splitmix64's steps, modulo 2^64."""
    mixed = places * -7046029254386353131 + 1442695040888963407  # 0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return (mixed ^ (mixed >> 31)) | 1
