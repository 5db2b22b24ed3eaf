"""Proof of application: before a model is trusted, it is shown that a cut reaches its attention, in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedModelError
from .decoder import attention_implementation, decoder_layers, find_decoder, module_of
from .mechanisms import check_mechanisms
from .probe import ISOLATE, Probe, difference, quietly
from .proof import allowed_leak, rounding_of

_COMPARED = (("none", "dense"), ("sham", "dense"), (ISOLATE, "dense"), (ISOLATE, "sparse"))


@dataclass(frozen=True)
class Check:
    """One thing that was tried on the model, and what came out."""

    name: str
    passed: bool
    detail: str


def self_check(model: Any, seed: int = 0, engine: str = "sparse") -> list[Check]:
    """Tries cuts on the model with a prompt of 20 tokens, in its own forward. It is run, nothing of it is changed.

    A cut that must change the answer does; other tokens in the place of those that are cut off from the last one leave
    it bit for bit as it was, which fails if a single layer ignores its mask. A model that is not reproducible to the
    last bit (experts that round by how many rows they get) is held to what another batch moves it by, and the check
    says so. All of it for the prompt and for a decoded token; the sparse engine must give what the reference gives.

    Args:
        model: a decoder or VideoLLM of transformers, or what `lmms_flow.load` gave.
        seed: of the prompt's tokens.
        engine: "sparse" tries both engines, "dense" the reference alone.

    Returns:
        What was tried, in order, each with whether it passed.
    """
    model = module_of(model)
    decoder = find_decoder(model)
    checks = [Check("decoder", True, f"{type(decoder).__name__}, {len(decoder_layers(decoder))} layers")]
    try:
        check_mechanisms(model)
        checks.append(Check("attention takes masks", True, attention_implementation(decoder)))
        with quietly(model):
            probe = Probe.of(model, seed)
            checks += _run(probe)
            if engine == "sparse":
                checks += _compare_engines(probe)
    except UnsupportedModelError as error:
        checks.append(Check("attention takes masks", False, str(error)))
    return checks


def require_self_check(model: Any, engine: str = "sparse") -> list[Check]:
    """The checks, if all pass; otherwise an UnsupportedModelError that names the model and the first failure."""
    checks = self_check(model, engine=engine)
    failed = next((check for check in checks if not check.passed), None)
    if failed is not None:
        who = f"{type(model).__name__} ({attention_implementation(find_decoder(model))} attention)"
        raise UnsupportedModelError(f"{who} failed the self-check, '{failed.name}': {failed.detail}")
    return checks


def _run(probe: Probe) -> list[Check]:
    baseline, sham, cut = (probe.run(probe.clean, flow, whole=True) for flow in ("none", "sham", ISOLATE))
    other_baseline = probe.run(probe.other, whole=True)
    other_cut = probe.run(probe.other, ISOLATE, whole=True)
    rounding = rounding_of(probe.model)
    checks = []
    for stage, name in enumerate(("prefill", "decoding")):
        numeric = difference(baseline[stage], sham[stage])
        # Against sham, which runs the same kernels: a mask that is ignored makes them equal to the last bit, however
        # coarse the numbers are.
        changed = difference(sham[stage], cut[stage])
        seen = difference(baseline[stage], other_baseline[stage])
        checks += [
            Check(
                f"{name}: a mask that cuts nothing changes nothing", numeric <= rounding, f"by {numeric:.1e}"
            ),
            Check(
                f"{name}: a cut changes the answer",
                changed > 0,
                f"by {changed:.1e} (masked kernels alone: {numeric:.1e})",
            ),
            Check(f"{name}: uncut, another video is seen", seen > 0, f"by {seen:.1e}"),
            _not_seen(name, difference(cut[stage], other_cut[stage]), probe),
        ]
    return checks


def _not_seen(stage: str, leaked: float, probe: Probe) -> Check:
    """Bit for bit where the model is reproducible, within a measured tolerance where it is not."""
    name = f"{stage}: cut off, another video is not seen"
    if not leaked:
        return Check(name, True, "bit for bit")
    allowed = allowed_leak(probe)
    compared = f"within {allowed:.1e}, what another batch moves" if allowed else "bit for bit"
    return Check(name, leaked <= allowed, f"by {leaked:.1e} (compared {compared})")


def _compare_engines(probe: Probe) -> list[Check]:
    """What the model says after the prompt and after a token decoded behind it, by both engines."""
    runs = {(flow, engine): probe.run(probe.clean, flow, engine) for flow, engine in _COMPARED}
    # The engines may differ by rounding, of which masked kernels alone make some. What goes wrong where rows are
    # dropped (positions, a cache of another kind) is not of that size.
    tolerance = 1e-3 if rounding_of(probe.model) < 0.01 else 0.05
    checks = []
    for stage, name in enumerate(("prefill", "decoding")):
        numeric = difference(runs["none", "dense"][stage], runs["sham", "dense"][stage])
        apart = difference(runs[ISOLATE, "dense"][stage], runs[ISOLATE, "sparse"][stage])
        checks.append(
            Check(
                f"{name}: the sparse engine equals the reference",
                apart <= max(tolerance, 4 * numeric),
                f"to {apart:.1e} (masked kernels alone: {numeric:.1e})",
            )
        )
    return checks
