"""A made-up prompt, laid out like a video question, that is run through a model's own forward to see what it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..flow import Flow, Layout, prompt_layout
from .applied import applied
from .decoder import decoder_layers, find_decoder
from .hooks import without_foreign_hooks
from .layer_call import cache_in, going_on_from, keeping

ISOLATE = "video:gap+video:question+video:tail+video:last"
_LAYOUT = prompt_layout(system=3, frames=2, tokens_per_frame=4, gap=1, question=5, tail=2)


@dataclass(frozen=True)
class Probe:
    """The prompt's tokens, `clean`, and the same with others in the video's places, `other`; [1, token] each."""

    model: nn.Module
    clean: Tensor
    other: Tensor

    @classmethod
    def of(cls, model: nn.Module, seed: int = 0) -> Probe:
        """A probe of tokens that have no meaning of their own to this model."""
        embed: Any = find_decoder(model).get_input_embeddings()  # type: ignore[operator]
        meant = set(_special(getattr(model, "config", None)))
        plain = torch.tensor([token for token in range(embed.weight.shape[0]) if token not in meant])
        generator = torch.Generator().manual_seed(seed)
        clean = plain[torch.randint(len(plain), (1, _LAYOUT.num_tokens), generator=generator)]
        other = clean.clone()
        video = _LAYOUT.groups["video"][0]
        drawn = torch.randint(1, len(plain), (len(video),), generator=generator)
        places = torch.searchsorted(plain, clean[0, video.start : video.stop])
        other[0, video.start : video.stop] = plain[(places + drawn) % len(plain)]
        return cls(model, clean.to(embed.weight.device), other.to(embed.weight.device))

    @property
    def layout(self) -> Layout:
        """Where its groups lie."""
        return _LAYOUT

    @cached_property
    def decoder(self) -> nn.Module:
        """The model's decoder."""
        return find_decoder(self.model)

    def run(
        self,
        tokens: Tensor,
        flow: str = "none",
        engine: str = "dense",
        decode: bool = True,
        whole: bool = False,
    ) -> list[Tensor]:
        """What the model says at the last prompt token, and after a token decoded behind it: fp32, [width] each.

        `tokens` may be a batch, of which the first sample is read. With `whole`, the first is of every token behind
        the video, [token, width]: what slips past a mask may come no further than to the next one.
        """
        resolved = Flow.load(flow).bind(len(decoder_layers(self.decoder))).resolve(self.layout)
        with applied(self.model, self.decoder, [resolved], engine) if flow != "none" else nullcontext():
            ones = torch.ones_like(tokens)
            said: list[Any] = [self._forward(whole, input_ids=tokens, attention_mask=ones)]
            if decode:
                step = self.clean[:, :1].expand(len(tokens), -1)  # any token will do
                going_on = going_on_from(self.model, cache_in(said[0]))
                ones = torch.ones(len(tokens), tokens.shape[1] + 1, dtype=tokens.dtype, device=tokens.device)
                said.append(self._forward(False, input_ids=step, attention_mask=ones, **going_on))
        return [_behind_video(said[0]) if whole else _last(said[0]), *map(_last, said[1:])]

    def _forward(self, whole: bool, **inputs: Any) -> Any:
        kept = {} if whole else keeping(self.model, 1)
        return self.model(**inputs, **kept, use_cache=True)


HELD = (
    "rope_deltas",
)  # what a model remembers of the batch before, of another size (Qwen-VL's 3D positions)


@contextmanager
def quietly(model: nn.Module, without_blocks: bool = False) -> Iterator[None]:
    """Inside, the model can be run and nothing is left of it: no gradients, no dropout, no hooks but ours.

    `without_blocks`, the flows of open blocks are off as well.
    """
    training = [part for part in model.modules() if part.training]
    for part in training:
        part.training = False
    held = [
        (part, name, part.__dict__[name])
        for part in model.modules()
        for name in HELD
        if name in part.__dict__
    ]
    for part, name, _ in held:
        setattr(part, name, None)
    try:
        with without_foreign_hooks(model, without_blocks), torch.no_grad():
            yield
    except (UnsupportedModelError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        line = str(error).splitlines()[0] if str(error) else ""
        raise UnsupportedModelError(
            f"{type(model).__name__} can't be shown to take a cut: a made-up prompt of {_LAYOUT.num_tokens} text "
            f"tokens fails in it with {type(error).__name__}: {line}"
        ) from error
    finally:
        for part in training:
            part.training = True
        for part, name, value in held:
            setattr(part, name, value)


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest magnitude."""
    return float((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny))


def _last(output: Any) -> Tensor:
    return _said(output)[-1].float()


def _behind_video(output: Any) -> Tensor:
    return _said(output)[_LAYOUT.groups["video"][-1].stop :].float()


def _said(output: Any) -> Tensor:
    """Logits, or the last hidden states of a model without a head, [token, width], of the first sample."""
    states = getattr(output, "logits", None)
    states = output.last_hidden_state if states is None else states
    first: Tensor = states[0]
    return first


def _special(config: Any) -> Iterator[int]:
    """The tokens that a configuration gives a meaning to: images, videos, padding."""
    if config is None:
        return
    for name, value in config.to_dict().items():
        yield from _token_ids(name, value)


def _token_ids(name: Any, value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for inner, each in value.items():
            yield from _token_ids(inner, each)
    elif "token" in str(name) and isinstance(value, int):
        yield value
    elif "token" in str(name) and isinstance(value, list | tuple):
        yield from (each for each in value if isinstance(each, int))
