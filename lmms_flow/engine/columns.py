"""Rows of a prompt told by their columns: numbers on the host, where they are compared, copied to a device once.

A comparison on a GPU would hold up everything behind it: between the layers of a prefill nothing is read back from one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Columns:
    """Columns of the padded prompt, [batch, place], ascending; -1 fills a shorter sample on its left."""

    def __init__(self, host: Tensor) -> None:
        self.host = host
        self._copies: dict[torch.device, Tensor] = {}
        counted = torch.arange(host.shape[1])
        self._are_first = bool((host == counted).all())

    @classmethod
    def of_tokens(cls, tokens: Sequence[tuple[int, ...]], keys: Tensor) -> Columns:
        """Where prompt tokens stand, given for each sample, or for each whose beams follow one another.

        `keys` [batch, column] is the token of each column, -1 for padding, on the host.
        """
        beams = len(keys) // len(tokens)
        host = torch.full((len(keys), max(map(len, tokens))), -1)
        for sample, row in enumerate(keys):
            wanted = torch.tensor(tokens[sample // beams], dtype=torch.long)
            host[sample, host.shape[1] - len(wanted) :] = (row >= 0).nonzero()[:, 0][wanted]
        return cls(host)

    def __len__(self) -> int:
        return self.host.shape[1]

    @property
    def real(self) -> Tensor:
        """Which of them are columns and no filling, bool [batch, place], on the host."""
        return self.host >= 0

    def index(self, device: torch.device) -> Tensor:
        """The same on a device, with column 0 for filling."""
        if device not in self._copies:
            self._copies[device] = send(self.host.clamp_min(0), device)
        return self._copies[device]

    def places_of(self, wanted: Columns) -> Columns:
        """Where the wanted columns stand among these."""
        found = torch.searchsorted(self.host, wanted.host.clamp_min(0))
        return Columns(found.clamp_max(len(self) - 1))

    def is_all_of(self, num_columns: int) -> bool:
        """Whether these are all columns of a prompt, in their order."""
        return self._are_first and len(self) == num_columns


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for what the device has to do before."""
    return tensor.to(device, non_blocking=True)
