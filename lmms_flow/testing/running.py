"""Checks of what a model does under a flow, with a real video prompt, through its own forward."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmms_flow.engine import Knockout, find_decoder, intervene, keep_masks, sweep
from lmms_flow.engine.both_ways import reads_both_ways
from lmms_flow.engine.layer_call import keeping
from lmms_flow.engine.probe import ISOLATE, difference
from lmms_flow.engine.proof import rounding_of
from lmms_flow.engine.windows import layer_windows
from lmms_flow.flow import Flow
from lmms_flow.harness.sample import Sample
from lmms_flow.inputs.processor_chat import ProcessorChat
from lmms_flow.inputs.read_ahead import ReadAhead
from lmms_flow.inputs.video import Clip, Frames
from lmms_flow.runner.answering import Answerer
from lmms_flow.runner.asking import Asking

from .case import QUESTION, Asked, Case
from .findings import NotTriedError, require

CUTS = ("cross_frame@first_half+last:last", "video:question", "random:0.3:seed1")
GREEDY = {"max_new_tokens": 6, "do_sample": False, "temperature": 0, "until": []}
SMALL = 50_000_000  # parameters, up to which a checkpoint is saved and loaded again
WINDOWS = 3  # of a sweep's layers, which the loop is run for


def answers(case: Case) -> str:
    """Under `flow=none` the answer is that of the plain model, given what its processor makes of the same frames."""
    inputs = _plain_inputs(case)
    pad = case.loaded.chat.pad_token_id
    with torch.no_grad():
        out = case.model.generate(
            **inputs,
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=pad,
            return_dict_in_generate=True,
            output_logits=True,
        )
    plain = case.loaded.tokenizer.decode(
        out.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    ).strip()
    outcome = _answer(case, "none")
    require(outcome.status == "ok", outcome.reason)
    require(outcome.answer == plain, f"{outcome.answer!r} here, {plain!r} from the model alone")
    chances = out.logits[0][0].float().softmax(-1).cpu()
    for letter, chance in outcome.details["options"].items():
        alone = float(chances[case.loaded.tokens_of_letter(letter)].sum())
        require(
            abs(chance - alone) <= 1e-3, f"the probability of {letter} is {chance:.4f}, {alone:.4f} alone"
        )
    return repr(plain)


def _plain_inputs(case: Case) -> dict[str, Tensor]:
    """What the processor alone makes of the frames; where it reads no videos, the wrapper's own inputs."""
    try:
        processor = case.processor
    except NotTriedError:
        return case.inputs(case.asked)
    own = case.own_reading
    asked = case.asked
    given = case.inputs(asked)
    taken = {
        name: torch.as_tensor(value) for name, value in own.items() if name in processor.model_input_names
    }
    taken |= {name: given[name] for name in given if name.startswith("pixel")}  # one decoder's for both
    taken |= {name: torch.as_tensor(own[name]) for name in given if name in own and name not in taken}
    return case.loaded.on_device(taken)


def _answer(case: Case, flow: str) -> Any:
    """The outcome of the question as a run has it."""
    wrapper = case.wrapper
    sample = Sample(
        0,
        "conformance",
        "test",
        0,
        {"question": QUESTION},
        tuple(case.asked.messages),
        dict(GREEDY),
        {"flow": flow, "task": "conformance", "lmms_flow": True},
    )
    asking = Asking(case.loaded, wrapper.asked, wrapper.identity)
    (outcome,) = Answerer(asking, _Read(case)).answer([sample])
    return outcome


class _Read(ReadAhead):
    """A reader that has the clip's frames already."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def take(self, clip: Clip) -> tuple[Frames, float]:
        """The frames."""
        return self._case.frames, 0.0


def cut(case: Case) -> str:
    """A cut of the video from all that follows changes what the model says, and a mask that cuts nothing does not."""
    stock, sham, isolated = (_last(case, flow, case.asked) for flow in ("none", "sham", ISOLATE))
    moved, numeric = difference(sham, isolated), difference(stock, sham)
    require(moved > 0, "it changes nothing")
    require(numeric <= rounding_of(case.model), f"a mask that cuts nothing changes it by {numeric:.1e}")
    return f"by {moved:.1e} (masked kernels alone: {numeric:.1e})"


def noise(case: Case) -> str:
    """Other pixels in a video that is cut off leave what the model says as it was, bit for bit."""
    other = case.with_frames(case.with_other_pixels(range(len(case.frames.indices))))
    require(other.prompt.input_ids == case.asked.prompt.input_ids, "other pixels make other tokens")
    uncut = difference(_last(case, "none", case.asked), _last(case, "none", other))
    require(uncut > 0, "the model does not see other pixels even without a cut")
    leaked = difference(_last(case, ISOLATE, case.asked), _last(case, ISOLATE, other))
    allowed = 1e-5 if any("expert" in name for name, _ in case.model.named_modules()) else 0.0
    require(leaked <= allowed, f"they change it by {leaked:.1e}")
    return "bit for bit" if not leaked else f"by {leaked:.1e}, experts' rounding"


def engines(case: Case) -> str:
    """The sparse engine says what the reference says."""
    apart = max(
        difference(_last(case, flow, case.asked), _last(case, flow, case.asked, "sparse")) for flow in CUTS
    )
    require(apart <= _tolerance(case), f"they are {apart:.1e} apart")
    return f"to {apart:.1e}"


def edges(case: Case) -> str:
    """The edges that a record counts are those of the masks, within the model's own windows."""
    outcome = _answer(case, CUTS[0])
    require(outcome.status == "ok", outcome.reason)
    if reads_both_ways(case.model):
        raise NotTriedError("they are counted on the model's own masks")
    kept = keep_masks(CUTS[0], case.asked.layout, case.num_layers)
    windows = layer_windows(find_decoder(case.model)) or (None,) * case.num_layers
    counted = sum(
        int((mask if window is None else mask.triu(1 - window)).sum())
        for mask, window in zip(kept, windows, strict=True)
    )
    require(outcome.details["edges_kept"] == counted, f"{outcome.details['edges_kept']} and {counted}")
    return f"{counted} of {outcome.details['edges_total']}"


def swept(case: Case) -> str:
    """A sweep says what one forward under each knockout says."""
    inputs, layout = case.inputs(case.asked), case.asked.layout
    knockouts = [Knockout("video", "question"), Knockout("cross_frame")]
    result = sweep(case.model, inputs, layout, knockouts, window=1)
    apart, last = 0.0, case.num_layers
    for layer in sorted({1, (last + 1) // 2, last})[:WINDOWS]:
        for place, knockout in enumerate(("video:question", "cross_frame")):
            logits = _last(case, f"{knockout}@{layer}", case.asked)
            alone = float(logits.softmax(-1)[result.answer])
            apart = max(apart, abs(alone - float(result.probabilities[place, layer - 1])))
    require(apart <= _tolerance(case), f"they are {apart:.1e} apart")
    return f"to {apart:.1e}"


def batched(case: Case) -> str:
    """Two questions of unlike lengths are answered in a batch as alone."""
    both = (case.asked, case.longer)
    require(len({len(one.prompt.input_ids) for one in both}) == 2, "the two prompts have one length")
    apart = 0.0
    for flow in ("none", CUTS[0]):
        together = _last(case, flow, *both)
        for row, one in enumerate(both):
            apart = max(apart, difference(_last(case, flow, one), together[row]))
    require(apart <= _tolerance(case), f"they are {apart:.1e} apart")
    return f"to {apart:.1e}"


def decoding(case: Case) -> str:
    """Decoded tokens are those of a forward over the whole text, with and without a flow, in both engines."""
    told = []
    for flow, engine in (("none", "dense"), (CUTS[0], "dense"), (CUTS[0], "sparse")):
        inputs = case.inputs(case.asked)
        with torch.no_grad(), _under(case, flow, [case.asked], engine):
            out = case.model.generate(
                **inputs,
                max_new_tokens=4,
                min_new_tokens=4,
                do_sample=False,
                pad_token_id=case.loaded.chat.pad_token_id,
                return_dict_in_generate=True,
                output_logits=True,
            )
        told.append(torch.cat([step.float().cpu() for step in out.logits]))
    require(difference(told[1], told[2]) <= _tolerance(case), "the engines decode otherwise")
    first = _last(case, "none", case.asked)
    require(
        difference(first, told[0][0]) <= _tolerance(case), "generate reads another prompt than the forward"
    )
    return f"{len(told[0])} tokens"


def saved_in_bf16(case: Case) -> str:
    """The checkpoint saved in bfloat16 and loaded again answers under a flow, close to what it said before."""
    chat = case.loaded.chat
    if not isinstance(chat, ProcessorChat):
        raise NotTriedError("the checkpoint is not in transformers' own form")
    if sum(weight.numel() for weight in case.model.parameters()) > SMALL:
        raise NotTriedError("the checkpoint is large")
    before = _last(case, CUTS[0], case.asked)
    with tempfile.TemporaryDirectory() as folder:
        again = _reloaded(case, Path(folder))
        after = _last(again, CUTS[0], again.asked)
        require(again.asked.prompt.input_ids == case.asked.prompt.input_ids, "its prompt is another one")
    apart = difference(before, after)
    require(apart < 0.2, f"it is {apart:.1e} away")
    return f"to {apart:.1e}"


def _reloaded(case: Case, folder: Path) -> Case:
    kind = case.model.dtype
    try:
        case.model.to(torch.bfloat16).save_pretrained(folder)
    finally:
        case.model.to(kind)
    case.loaded.chat.processor.save_pretrained(folder)
    args = case.loaded.args
    wrapper = type(case.wrapper)(
        pretrained=str(folder),
        records="none",
        dtype="bfloat16",
        device=str(case.loaded.device),
        num_frames=args.num_frames,
        attn_implementation=args.attn_implementation,
    )
    return Case(wrapper, case.clip)


def _under(case: Case, flow: str, asked: Sequence[Asked], engine: str) -> Any:
    return intervene(case.model, Flow.load(flow), [one.layout for one in asked], engine=engine)


def _last(case: Case, flow: str, *asked_and_engine: Asked | str) -> Tensor:
    """The last token's logits in fp32, [token] of one question and [question, token] of several."""
    asked = [one for one in asked_and_engine if isinstance(one, Asked)]
    engine = next((one for one in asked_and_engine if isinstance(one, str)), "dense")
    with torch.no_grad(), _under(case, flow, asked, engine):
        logits: Tensor = (
            case.model(**case.inputs(*asked), **keeping(case.model, 1)).logits[:, -1].float().cpu()
        )
    return logits[0] if len(asked) == 1 else logits


def _tolerance(case: Case) -> float:
    return 1e-4 if rounding_of(case.model) < 0.01 else 0.1
