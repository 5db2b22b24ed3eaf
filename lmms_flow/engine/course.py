"""How an engine runs a flow, layer by layer: asked by the hooks that do it and by the ledger that counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..flow import ResolvedFlow
from .decoder import attention_implementation, find_decoder, rows_keep_their_places
from .layer_call import can_keep_one, layers_with_visual_features
from .windows import has_windows, layer_windows


@dataclass(frozen=True)
class Setting:
    """What of a model decides how a flow is run on it. The defaults are those of most models of transformers."""

    sdpa: bool = True  # its attention; otherwise eager, which adds masks to the scores
    device: str = "cuda"  # the type: long prompts and strips run otherwise on a CPU
    drops_rows: bool = True  # whether the sparse engine may drop rows
    undropped: int = 1  # layers that it leaves whole
    keeps_one: bool = True  # whether the head runs on the last row alone
    windows: tuple[int | None, ...] = ()  # how far back each layer reads; empty where all read everything

    @classmethod
    def of(cls, model: nn.Module) -> Setting:
        """Reads it off a loaded model."""
        decoder = find_decoder(model)
        keeps_one = can_keep_one(model)
        return cls(
            sdpa=attention_implementation(decoder) != "eager",
            device=next(decoder.parameters()).device.type,
            drops_rows=keeps_one and not has_windows(decoder) and not rows_keep_their_places(decoder),
            undropped=max(1, layers_with_visual_features(model, decoder)),
            keeps_one=keeps_one,
            windows=layer_windows(decoder),
        )

    def window(self, layer: int) -> int | None:
        """How many tokens a layer (from 1) reads back, itself included; None: all."""
        return self.windows[layer - 1] if self.windows else None


@dataclass(frozen=True)
class Course:
    """What a prefill of a batch of prompts takes in each layer. One layout or several, one flow."""

    resolved: Sequence[ResolvedFlow]
    setting: Setting
    sparse: bool

    @property
    def may_drop(self) -> bool:
        """Whether rows may be dropped at all; nothing dies under `sham`, and the reference shares its masks."""
        return self.sparse and self.setting.drops_rows and self._needs_masks and not self._is_sham

    @property
    def in_strips(self) -> bool:
        """Whether masks are made of rectangles, and the model's attention takes them so."""
        of_blocks = not self._is_sham and not any(each.draws for each in self.resolved)
        one_layout = len({each.layout for each in self.resolved}) == 1
        return self.may_drop and self.setting.sdpa and of_blocks and one_layout

    def drops(self, layer: int) -> bool:
        """Whether rows may be dropped before a layer (from 1)."""
        return self.may_drop and layer > self.setting.undropped

    def is_masked(self, layer: int) -> bool:
        """Whether a layer is given a mask of the flow's at all; `sham` masks all and cuts nothing."""
        cut = any(not each.is_causal(layer) or each.cut_from_generated(layer) for each in self.resolved)
        return self._is_sham or cut

    def takes_strips(self, layer: int) -> bool:
        """Whether a layer's attention runs in strips, or in what takes their place, instead of under a whole mask."""
        return self.in_strips and (self.drops(layer) or self.is_masked(layer))

    @property
    def _is_sham(self) -> bool:
        return any(each.bound.flow.kind == "sham" for each in self.resolved)

    @property
    def _needs_masks(self) -> bool:
        return any(each.bound.flow.needs_masks for each in self.resolved)
