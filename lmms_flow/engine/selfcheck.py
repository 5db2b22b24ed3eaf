"""Proof of application: before a model is trusted, it is shown that a cut reaches its attention, in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..flow import FlowError, Layout, prompt_layout
from .decoder import attention_implementation, check_attention, decoder_layers, find_decoder
from .errors import UnsupportedModelError
from .intervene import intervene
from .layer_call import cache_in, going_on_from, keeping

ISOLATE = "video:gap+video:question+video:tail+video:last"

_COMPARED = (("none", "dense"), ("sham", "dense"), (ISOLATE, "dense"), (ISOLATE, "sparse"))


@dataclass(frozen=True)
class Check:
    """One thing that was tried on the model, and what came out."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class _Probe:
    """A made-up prompt of text tokens, laid out like a video question, and the same with noise on the video's rows."""

    decoder: nn.Module
    layout: Layout
    clean: Tensor  # [1, token, width]
    noisy: Tensor

    def last(self, embeddings: Tensor, flow: str) -> tuple[Tensor, Tensor]:
        """The final hidden state of the last prompt token and of a token decoded after it, [width] each."""
        with intervene(self.decoder, flow, self.layout, engine="dense"):
            out: Any = self.decoder(inputs_embeds=embeddings, use_cache=True)
            step = self.clean[:, :1]  # any token will do
            decoded: Any = self.decoder(
                inputs_embeds=step, use_cache=True, **going_on_from(self.decoder, cache_in(out))
            )
        return out.last_hidden_state[0, -1], decoded.last_hidden_state[0, -1]


def self_check(model: nn.Module, seed: int = 0, engine: str = "sparse") -> list[Check]:
    """Tries cuts on the model's decoder with a prompt of 20 tokens. The model is run, nothing of it is changed.

    A cut that must change the answer does; noise in tokens that are cut off from the last one leaves it bit for bit as
    it was, which fails if a single layer ignores its mask. Both for the prompt and for a decoded token. With the sparse
    engine the whole model is run as well, and must give the logits that it gives with the reference.
    """
    decoder = find_decoder(model)
    checks = [Check("decoder", True, f"{type(decoder).__name__}, {len(decoder_layers(decoder))} layers")]
    try:
        check_attention(model)
        checks.append(Check("attention takes masks", True, attention_implementation(decoder)))
        probe = _probe(decoder, seed)
        checks += _run(probe)
        if engine == "sparse":
            checks += _compare_engines(model, probe)
    except UnsupportedModelError as error:
        checks.append(Check("attention takes masks", False, str(error)))
    return checks


def require_self_check(model: nn.Module, engine: str = "sparse") -> list[Check]:
    """The checks, if all pass; otherwise an UnsupportedModelError that names the model and the first failure."""
    checks = self_check(model, engine=engine)
    failed = next((check for check in checks if not check.passed), None)
    if failed is not None:
        who = f"{type(model).__name__} ({attention_implementation(find_decoder(model))} attention)"
        raise UnsupportedModelError(f"{who} failed the self-check, '{failed.name}': {failed.detail}")
    return checks


@torch.no_grad()
def _run(probe: _Probe) -> list[Check]:
    baseline, sham, cut = (probe.last(probe.clean, flow) for flow in ("none", "sham", ISOLATE))
    noisy_baseline, noisy_cut = probe.last(probe.noisy, "none"), probe.last(probe.noisy, ISOLATE)
    checks = []
    for stage, name in enumerate(("prefill", "decoding")):
        numeric = _difference(baseline[stage], sham[stage])
        # Against sham, which runs the same kernels: a mask that is ignored makes them equal to the last bit, however
        # coarse the numbers are.
        changed = _difference(sham[stage], cut[stage])
        seen = _difference(baseline[stage], noisy_baseline[stage])
        leaked = _difference(cut[stage], noisy_cut[stage])
        checks += [
            Check(
                f"{name}: a cut changes the answer",
                changed > 0,
                f"by {changed:.1e} (masked kernels alone: {numeric:.1e})",
            ),
            Check(f"{name}: uncut, noise in the video is seen", seen > 0, f"by {seen:.1e}"),
            Check(f"{name}: cut off, noise in the video is not seen", leaked == 0, f"by {leaked:.1e}"),
        ]
    return checks


@torch.no_grad()
def _compare_engines(model: nn.Module, probe: _Probe) -> list[Check]:
    """Logits of the last prompt token and of one decoded after it, by both engines, with the video's rows dropped."""
    runs = {(flow, engine): _logits(model, probe, flow, engine) for flow, engine in _COMPARED}
    # The engines may differ by rounding, of which masked kernels alone make some. What goes wrong where rows are
    # dropped (positions, a cache of another kind) is not of that size.
    tolerance = 1e-3 if probe.clean.dtype == torch.float32 else 0.05
    checks = []
    for stage, name in enumerate(("prefill", "decoding")):
        numeric = _difference(runs["none", "dense"][stage], runs["sham", "dense"][stage])
        apart = _difference(runs[ISOLATE, "dense"][stage], runs[ISOLATE, "sparse"][stage])
        checks.append(
            Check(
                f"{name}: the sparse engine equals the reference",
                apart <= max(tolerance, 4 * numeric),
                f"to {apart:.1e} (masked kernels alone: {numeric:.1e})",
            )
        )
    return checks


def _logits(model: nn.Module, probe: _Probe, flow: str, engine: str) -> tuple[Tensor, Tensor]:
    only_last = keeping(model, 1)
    with intervene(model, flow, probe.layout, engine=engine):
        out: Any = model(inputs_embeds=probe.clean, use_cache=True, **only_last)
        going_on = going_on_from(model, cache_in(out))
        step: Any = model(inputs_embeds=probe.clean[:, :1], use_cache=True, **going_on, **only_last)
    return out.logits[0, -1], step.logits[0, -1]


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest magnitude."""
    return float((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny))


def _probe(decoder: nn.Module, seed: int) -> _Probe:
    layout = prompt_layout(system=3, frames=2, tokens_per_frame=4, gap=1, question=5, tail=2)
    embed: Any = decoder.get_input_embeddings()  # type: ignore[operator]
    weight = embed.weight
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(weight.shape[0], (1, layout.num_tokens), generator=generator)
    clean = embed(tokens.to(weight.device)).detach()
    noisy = clean.clone()
    video = layout.groups["video"][0]
    noise = torch.randn(clean[:, video.start : video.stop].shape, generator=generator)
    scale = clean.float().std().clamp_min(1e-6)
    noisy[:, video.start : video.stop] += (noise.to(clean.device) * scale).to(clean.dtype)
    if torch.equal(clean, noisy):
        raise FlowError("the model's embeddings swallow noise: the self-check can't be made")
    return _Probe(decoder, layout, clean, noisy)
