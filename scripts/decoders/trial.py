"""One family's trial: what the engine says and what masks by hand say, in prefill, decoding, sweep and ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmms_flow.engine import (
    UnsupportedModelError,
    decoder_layers,
    find_decoder,
    intervene,
    keep_masks,
    ledger,
    require_self_check,
    sweep,
)
from lmms_flow.engine.flops import flop_counter
from lmms_flow.engine.layer_call import cache_in, going_on_from
from lmms_flow.engine.mechanisms import check_mechanisms
from lmms_flow.flow import FlowError, Layout, prompt_layout
from scripts.decoders.build import LAYERS

LAYOUT: Layout = prompt_layout(system=3, frames=3, tokens_per_frame=4, gap=2, question=7, tail=2)
FLOWS = ("blind", "cross_frame@1-2+question:last@3-4")
TOLERANCE = 2e-5  # of the largest logit, fp32
KNOCKOUTS = ("video:question", "cross_frame")


def trial(model: nn.Module) -> tuple[str, str]:
    """('exact', figures), ('refused', why) or ('wrong', what): there should be no third.

    ('not built', why) where the stock model itself can't read the prompt.
    """
    try:
        with torch.no_grad():
            tokens = _prompt(model)
            out = model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    except Exception as error:
        try:
            check_mechanisms(model)
        except UnsupportedModelError as refusal:  # whatever it would have said
            return "refused", str(refusal)
        line = str(error).splitlines()[0] if str(error) else ""
        return "not built", f"the stock model fails on a prompt of text: {type(error).__name__}: {line}"
    stepless = _fails_on_a_step(model, tokens, out)
    try:
        with intervene(model, "blind", LAYOUT):
            pass
    except UnsupportedModelError as error:
        return "refused", str(error)
    if stepless:
        return "not built", f"the stock model fails on a step behind its prompt: {stepless}"
    try:
        return "exact", _figures(model)
    except Exception as error:
        line = str(error).splitlines()[0] if str(error) else ""
        return "wrong", f"{type(error).__name__}: {line}"


@torch.no_grad()
def _figures(model: nn.Module) -> str:
    tokens = _prompt(model)
    worst = 0.0
    for flow in FLOWS:
        wanted = _by_hand(model, tokens, flow), _by_hand(model, torch.cat([tokens, tokens[:, :1]], 1), flow)
        for engine in ("dense", "sparse"):
            for found, want in zip(_by_engine(model, tokens, flow, engine), wanted, strict=True):
                worst = max(worst, _apart(found, want))
    _require(worst < TOLERANCE, f"logits are off by {worst:.1e}")
    swept = _sweep(model, tokens)
    _require(swept < 1e-4, f"a sweep's probabilities are off by {swept:.1e}")
    require_self_check(model)
    return f"{worst:.0e} / {swept:.0e} / {_ledger(model, tokens)}"


def _prompt(model: Any) -> Tensor:
    meant = {value for value in _ids(model.config.to_dict()) if value is not None}
    plain = torch.tensor([token for token in range(3, 150) if token not in meant])
    return plain[
        torch.randint(len(plain), (1, LAYOUT.num_tokens), generator=torch.Generator().manual_seed(1))
    ]


def _ids(config: Any) -> Iterator[int]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _ids(value)
        elif "token" in str(name) and isinstance(value, int):
            yield value


def _logits(out: Any) -> Tensor:
    logits: Tensor = out.logits[0, -1]
    return logits


@torch.no_grad()
def _fails_on_a_step(model: nn.Module, tokens: Tensor, out: Any) -> str:
    """What a model without a flow says to one more token, if that is an error (some need `generate`'s position ids)."""
    ones = torch.ones(1, LAYOUT.num_tokens + 1, dtype=torch.long)
    try:
        model(
            input_ids=tokens[:, :1],
            attention_mask=ones,
            use_cache=True,
            **going_on_from(model, cache_in(out)),
        )
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def _by_engine(model: nn.Module, tokens: Tensor, flow: str, engine: str) -> tuple[Tensor, Tensor]:
    with intervene(model, flow, LAYOUT, engine=engine):
        kept = {"logits_to_keep": 1} if engine == "sparse" and _keeps(model) else {}
        ones = torch.ones_like(tokens)
        out = model(input_ids=tokens, attention_mask=ones, use_cache=True, **kept)
        cache = going_on_from(model, cache_in(out))
        ones = torch.ones(1, LAYOUT.num_tokens + 1, dtype=torch.long)
        step = model(input_ids=tokens[:, :1], attention_mask=ones, use_cache=True, **cache)
    return _logits(out), _logits(step)


def _keeps(model: nn.Module) -> bool:
    import inspect

    return "logits_to_keep" in inspect.signature(model.forward).parameters


def _by_hand(model: nn.Module, tokens: Tensor, flow: str) -> Tensor:
    """The last logits with the reference masks, by hooks that know nothing of the engine; no cache."""
    masks = keep_masks(flow, LAYOUT, LAYERS)
    extra = tokens.shape[1] - LAYOUT.num_tokens
    whole = torch.ones(LAYERS, tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    whole[:, : LAYOUT.num_tokens, : LAYOUT.num_tokens] = masks
    for row in range(extra):
        whole[:, LAYOUT.num_tokens + row, : LAYOUT.num_tokens] = masks[:, -1]
    with _masked(model, whole):
        return _logits(model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False))


@contextmanager
def _masked(model: Any, masks: Tensor) -> Iterator[None]:
    additive = model.config._attn_implementation == "eager"

    def hook(number: int) -> Callable[..., Any]:
        def before(layer: Any, args: Any, kwargs: Any) -> Any:
            own, keep = (
                kwargs.get("attention_mask", args[1] if len(args) > 1 else None),
                masks[number][None, None],
            )
            if isinstance(own, Tensor):
                seen = own if own.dtype == torch.bool else own > torch.finfo(own.dtype).min / 2
                keep = keep & seen
            if additive:
                keep = torch.zeros(keep.shape).masked_fill(~keep, torch.finfo(torch.float32).min)
            if len(args) > 1:  # given by position
                return (args[0], keep, *args[2:]), kwargs
            return args, kwargs | {"attention_mask": keep}

        return before

    handles = [
        layer.register_forward_pre_hook(hook(number), with_kwargs=True)
        for number, layer in enumerate(decoder_layers(find_decoder(model)))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sweep(model: nn.Module, tokens: Tensor) -> float:
    found = sweep(model, {"input_ids": tokens}, LAYOUT, KNOCKOUTS, window=1)
    worst = 0.0
    for k, knockout in enumerate(KNOCKOUTS):
        for layer in range(1, LAYERS + 1):
            want = _by_hand(model, tokens, f"{knockout}@{layer}").softmax(-1)[found.answer]
            worst = max(worst, abs(float(found.probabilities[k, layer - 1] - want)))
    return worst


def _ledger(model: nn.Module, tokens: Tensor) -> str:
    """Within 1 % of what torch counts, or not given."""
    try:
        counted = ledger(model, "none", LAYOUT).full.flops
    except (FlowError, UnsupportedModelError):
        return "not given"
    kept = {"logits_to_keep": 1} if _keeps(model) else {}
    with flop_counter() as counter:
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **kept)
    measured = counter.get_total_flops()
    _require(
        abs(counted / measured - 1) < 0.01, f"the ledger counts {counted / measured:.3f} of the true FLOPs"
    )
    return f"{counted / measured:.3f}"


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
