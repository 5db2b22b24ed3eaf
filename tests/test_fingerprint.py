"""Hashes of tensors: any number that differs shows, on both ways of hashing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmms_flow.runner.fingerprint import CHUNK, Fingerprints, weighted_sum

KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.bool, torch.float64)


def of(tensor: Tensor) -> str:
    return Fingerprints().of(tensor)


def on_a_device(tensor: Tensor) -> int:
    """The way of a GPU, on the processor."""
    return weighted_sum(tensor.contiguous().flatten().view(torch.uint8).view(torch.int64))


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_each_kind_of_number_is_read_to_the_last_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensor = (torch.randn(37, 41) * 50).to(dtype)
    before = of(tensor)
    assert of(tensor.clone()) == before
    raw = tensor.view(torch.uint8)
    for place in ((0, 0), (36, raw.shape[1] - 1)):
        raw[place] ^= 1
        assert of(tensor) != before
        raw[place] ^= 1
    assert of(tensor) == before


def test_type_and_shape_are_told_apart() -> None:
    zeros = torch.zeros(4, 6)
    others = [zeros.T, zeros.flatten(), zeros.to(torch.float64), zeros[:3], torch.zeros(0), torch.zeros(0, 2)]
    assert len({of(one) for one in [zeros, *others]}) == 7


def test_a_view_is_what_it_shows() -> None:
    whole = torch.arange(24.0).view(4, 6)
    assert of(whole[:, 1:3]) == of(whole[:, 1:3].clone())
    assert of(whole.T) == of(whole.T.contiguous())
    assert of(whole[:, 1:3]) != of(whole[:, 2:4])


def test_views_of_one_memory_are_told_apart_and_tied_ones_are_read_once() -> None:
    whole = torch.arange(24.0).view(4, 6)
    prints = Fingerprints()
    assert prints.of(whole) == prints.of(whole.view(4, 6))
    assert len({prints.of(one) for one in (whole, whole.T, whole[:2], whole[2:])}) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda words: words[7:8].add_(1),
        lambda words: words[0:1].bitwise_xor_(-(2**63)),  # the highest bit alone
        lambda words: words.copy_(words.flip(0)),
        lambda words: words[:2].copy_(words[:2].flip(0)),
        lambda words: words[100:200].zero_(),
        lambda words: words.bitwise_xor_(1 << 48),  # the last of four numbers of 16 bits, in every word
        lambda words: words[::4].mul_(2),
    ],
)
def test_the_way_of_a_device_sees_what_heads_that_are_edited_change(change: object) -> None:
    torch.manual_seed(1)
    words = torch.randint(-(2**62), 2**62, (4096,))
    before = on_a_device(words)
    assert on_a_device(words.clone()) == before
    changed = words.clone()
    change(changed)  # type: ignore[operator]
    assert on_a_device(changed) != before


def test_the_way_of_a_device_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.arange(1000)
    whole = weighted_sum(words)
    for size in (7, 999, 1000):
        monkeypatch.setattr("lmms_flow.runner.fingerprint.CHUNK", size)
        assert weighted_sum(words) == whole
    assert CHUNK > 1000


def test_no_two_of_many_edits_look_alike() -> None:
    """One number of 16 bits is edited in each place and lane of a few words."""
    torch.manual_seed(2)
    numbers = torch.randn(400).to(torch.bfloat16)
    seen = []
    for place in range(len(numbers)):
        for value in {float(one) for one in torch.randn(3).to(torch.bfloat16)} - {float(numbers[place])}:
            changed = numbers.clone()
            changed[place] = value
            seen.append(on_a_device(changed))
    assert len(set(seen)) == len(seen) > 1000
