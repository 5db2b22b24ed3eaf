"""The arguments of our models, read from `--model_args` and checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lmms_flow.engine import ENGINES
from lmms_flow.errors import FlowError, RunError, UserError, nearest
from lmms_flow.flow.trace_settings import TraceSettings
from lmms_flow.harness import host
from lmms_flow.inputs.clip import ANY_READER, READERS
from lmms_flow.inputs.frame_order import FrameOrder
from lmms_flow.inputs.workers import TIMEOUT


@dataclass(frozen=True)
class ModelArguments:
    """What a user may write into `--model_args` of a model of ours."""

    pretrained: str = ""  # repository id or folder; empty: the wrapper's default checkpoint
    revision: str = "main"  # of the repository
    flow: str = "none"  # what is cut, in the one-line language, a preset's name or a .yaml file
    flow_digest: str = ""  # what the flow's digest must be: for a file that might be edited
    engine: str = "sparse"  # how the cut is run: "sparse", or "dense", the reference
    attn_implementation: str = "sdpa"  # or "eager"
    dtype: str = "auto"  # auto: bfloat16 on a GPU, float32 on a CPU
    device: str = ""  # cuda, cuda:1, cpu; empty: the GPU if there is one
    device_map: str = ""  # as transformers takes it, for a model on several GPUs
    load_in_4bit: bool = False  # by bitsandbytes
    load_in_8bit: bool = False  # the same
    peft: str = ""  # repository id or folder of an adapter, on top of pretrained
    num_frames: int = 8  # of each video, where the task does not say
    max_frames: int = 0  # at most, whatever the task says; 0: as many
    min_pixels: int = 0  # of a frame, where the processor goes by a number of pixels; 0: as it is set
    max_pixels: int = 0  # the same
    frame_order: str = ""  # of each video: reversed, frozen or shuffled:seed1; empty: as it was filmed
    batch_size: int = 1  # of questions
    reader: str = ANY_READER  # what decodes videos: "auto", "decord", "pyav" or "torchcodec"
    video_timeout: int = TIMEOUT  # seconds for one video
    records: str = "lmms_flow_records"  # folder of the journal, or "none"
    on_error: str = "raise"  # or "record": go on without the sample, and say so
    trust_remote_code: bool = False  # whether a repository's own processor may run its code; models never do
    trace_knockouts: str = ""  # of the maps of tasks that don't say it: target sets or rules, joined by "+"
    trace_window: str = ""  # how many layers they cut at once
    trace_style: str = ""  # center, inverse, from_layer or to_layer
    trace_layers: str = ""  # on which their windows are centred
    trace_how: str = ""  # before_softmax, after_softmax or restore
    trace_lens_layers: str = ""  # that a lens reads
    dry_run: bool = False  # say what the run would cost, and end
    released_vision: bool = False  # VideoLLaMA3's vision tower runs as the paper's scripts ran it

    @property
    def trace(self) -> dict[str, str]:
        """The settings of traces that are given."""
        names = ("knockouts", "window", "style", "layers", "how", "lens_layers")
        named = {name: getattr(self, f"{TRACE}{name}") for name in names}
        return {name: value for name, value in named.items() if value}


TRACE = "trace_"  # how the names of those begin
_CHOICES = {
    "engine": ENGINES,
    "attn_implementation": None,
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "on_error": ("raise", "record"),
    "reader": (ANY_READER, *READERS),
}


def joined(arg_string: str | Mapping[str, Any], flags: Mapping[str, Any] | None) -> dict[str, Any]:
    """`--model_args` with the flags that lmms-eval hands to a model beside it (`--batch_size`, `--device`).

    Raises RunError where it can't be read, or where something is said twice and differently: one of the two would be
    dropped.
    """
    if isinstance(arg_string, Mapping):
        given = dict(arg_string)
    else:
        try:
            given = dict(host.PARSE_STRING.take()(arg_string))
        except ValueError:
            raise RunError(f"--model_args {arg_string!r}: {_without_a_name(arg_string)}") from None
        given = {str(name).strip(): value for name, value in given.items()}
        counted = Counter(re.findall(r"(?:^|,)\s*(\w+)\s*=", arg_string))
        for field in fields(ModelArguments):
            if counted[field.name] > 1:
                raise RunError(
                    f"--model_args says {field.name} {counted[field.name]} times: leave out all but one"
                )
    for name, value in (flags or {}).items():
        if value is None or (name == "batch_size" and name in given and type(value) is int and value == 1):
            continue  # lmms-eval's own default: from the command line it would be text
        if name in given and str(given[name]) != str(value):
            raise RunError(f"--{name} {value} and {name}={given[name]} in --model_args: leave out one")
        given[name] = value
    return given


def _without_a_name(arg_string: str) -> str:
    """Which part has no name, and what to write for it."""
    names = [field.name for field in fields(ModelArguments)]
    before = ""
    for part in arg_string.split(","):
        if "=" in part:
            before = part
            continue
        if before.strip().startswith("flow="):
            return f"rules of a flow are joined by '+', not by ',': write {before.strip()}+{part.strip()}"
        word, colon, value = part.strip().partition(":")
        if colon and word in names:
            return f"write {word}={value}, not {part.strip()}"
        of = next((name for name, choices in _CHOICES.items() if choices and part.strip() in choices), None)
        if of:
            return f"{part.strip()!r} has no name: write {of}={part.strip()}"
        return f"{part.strip()!r} has no name: write name=value,name=value"
    return "write name=value,name=value"


def as_read(text: str) -> str:
    """What is left of a text that went through `--model_args`: lmms-eval makes a number of what looks like one."""
    return str(host.PARSE_STRING.take()(f"value={text}")["value"])


def read_arguments(given: Mapping[str, Any]) -> ModelArguments:
    """The arguments, checked. Raises RunError (exit status 1) naming the nearest argument or the valid values."""
    known = {field.name: field for field in fields(ModelArguments)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name == "max_batch_size":  # lmms-eval hands on its flag among the arguments
            raise RunError(
                "--max_batch_size belongs to --batch_size auto, which these models don't have: leave it out"
            )
        if name not in known:
            raise RunError(
                f"--model_args has no argument {name!r}{nearest(name, known)} (arguments: {', '.join(known)})"
            )
        if name == "records" and str(value) == "None":
            value = "none"
        values[name] = _typed(name, value, type(known[name].default))
    arguments = ModelArguments(**values)
    for name, choices in _CHOICES.items():
        value = getattr(arguments, name)
        if choices and value not in choices:
            raise RunError(
                f"--model_args {name}={value}{nearest(str(value), choices)} (write {' or '.join(choices)})"
            )
    try:
        if arguments.frame_order:
            FrameOrder.parse(arguments.frame_order)
    except UserError as error:
        raise RunError(f"--model_args: {error}") from None
    try:
        TraceSettings.from_mapping(arguments.trace)
    except FlowError as error:
        raise RunError(f"--model_args trace_...: {error}") from None
    return arguments


def _typed(name: str, value: Any, kind: type) -> Any:
    text = str(value).strip()
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise RunError(f"--model_args {name}={value}: write True or False")
    if kind is int:
        if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) < 1:
            raise RunError(f"--model_args {name}={value}: write a whole number from 1")
        return int(text)
    return text
