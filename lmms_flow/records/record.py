"""What is known about one answered sample: a line of the journal, and of lmms-eval's sample log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from lmms_flow.errors import RecordError, one_line

FORMAT = 5  # raise it whenever a field is added, renamed or dropped, or means something else
LARGEST = 2**63 - 1  # a whole number in a record; JSON knows no limit, and what is computed with it does
REMEDY = "delete the file and run again"

# What a task says of a sample whose record was damaged between the model and the scoring.
UNREADABLE: Mapping[str, int | None] = {"record": None, "errors": 1, "skipped": 0}

Status = Literal["ok", "error", "skipped"]


@dataclass(frozen=True)
class SampleRecord:
    """One sample of one arm, as it ended.

    `edges_kept` of `edges_total` counts (query, key) pairs of one head, summed over layers.
    """

    id: str  # the document's own id where it has one, else its place in the split
    task: str
    doc_id: int
    status: Status
    reason: str = ""  # why it is not "ok"; one line
    answer: str = ""
    first_token: str | None = None  # the answer's first token, as it is decoded alone: spaces count
    flow: str = "none"  # as the user wrote it
    flow_name: str = ""
    flow_digest: str = ""  # of the bound flow's meaning; empty where the flow could not be bound
    engine: str = ""
    edges_kept: int | None = None
    edges_total: int | None = None
    groups_rule: str = ""  # how the question was found in the prompt
    frames: tuple[
        int, ...
    ] = ()  # indices into the decoded video, in the order in which the model was shown them
    num_frames: int = 0  # asked for; 0 where no video was
    unit: str = ""  # of cross_frame: "frame", or how many frames the processor merged into one
    frame_size: str = ""  # the processor's limits for a frame's pixels
    frame_order: str = ""  # "reversed", "frozen", "shuffled:seed1"; empty: as the video was filmed
    reader: str = ""  # the library that decoded the video, with its version
    options: Mapping[str, float] = field(default_factory=dict)  # letter -> probability of being the answer
    flops: int | None = None  # of the prefill under this flow: vision tower, decoder and head
    flops_full: int | None = None  # the same under full attention
    milliseconds: float | None = None  # of the model under this flow
    shared_milliseconds: float | None = None  # reading and encoding the video, for all arms of a question
    checkpoint: str = ""
    vision: str = ""  # "released": the vision tower ran as the paper's scripts ran it
    base: str = ""  # the task whose documents these are: the task itself, or what it is an arm of
    category: str = ""  # of the question, within its task
    pair: str = ""  # id of the document about the clip that is its pair, where the data set says so
    protocol: str = ""  # whose prompt and scoring: "paper" or "stock"
    prompt_digest: str = ""  # of the rendered prompt
    data_digest: str = ""  # of the document and the identity of its video
    notes: tuple[str, ...] = ()  # such as: a knockout's group is empty in this prompt
    clip: str = ""  # of the video's file: questions about one clip are no independent samples
    video_key: str = ""  # what the document itself calls its video: files with one key are parts of one video
    video: str = ""  # where that file was; its frames are read again to show them
    num_layers: int | None = None  # of the decoder
    runtime: str = ""  # numbers and device, attention, versions: one line
    trace: str = ""  # the settings of a trace (`TraceSettings.to_text`); empty for an arm
    arrays: str = ""  # what a trace read out: its file, in the folder of the records
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of the arrays in that file

    format: ClassVar[int] = FORMAT

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"a record's status is ok, error or skipped, not {self.status!r}")
        object.__setattr__(self, "frames", tuple(int(index) for index in self.frames))
        object.__setattr__(self, "notes", tuple(str(note) for note in self.notes))
        object.__setattr__(self, "options", {str(k): float(v) for k, v in self.options.items()})
        object.__setattr__(self, "shapes", {str(k): tuple(map(int, v)) for k, v in self.shapes.items()})

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON has it, with its format number first."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values |= {"frames": list(self.frames), "notes": list(self.notes)}
        values["shapes"] = {name: list(shape) for name, shape in self.shapes.items()}
        return {"format": self.format, **values}

    def to_json(self) -> str:
        """One line of JSON, without `<`: the host strips `<think>` blocks from what a model returns."""
        return json.dumps(self.to_dict()).replace("<", "\\u003c")

    @classmethod
    def from_dict(cls, values: object, where: str = "a record") -> SampleRecord:
        """Reads what :meth:`to_dict` wrote; every reader of records goes through here.

        Raises RecordError, which begins with `where` (file and line), for another format number, for a field that is
        missing, and for one of another type.
        """
        given = checked_format(values, where, "record")
        for name, kind in _types().items():
            if name not in given:
                raise RecordError(
                    f"{where}: the record lacks the field {name!r} of format {FORMAT}; {REMEDY}"
                )
            if not fits(given[name], kind):
                found = one_line(repr(given[name]), limit=80)
                told = _told(kind) + (" below 2**63" if type(given[name]) is int else "")
                raise RecordError(f"{where}: the record's {name} is {found}, not {told}; {REMEDY}")
        return cls(**{name: given[name] for name in _types()})

    @classmethod
    def from_json(cls, text: str, where: str = "a record") -> SampleRecord:
        """Reads what :meth:`to_json` wrote. Raises RecordError for anything else."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise RecordError(f"{where}: not JSON, so it is no record") from None
        return cls.from_dict(values, where)


def checked_format(values: object, where: str, what: str) -> Mapping[str, Any]:
    """`values` as a dictionary of this format. Raises RecordError that says what was found and what is expected."""
    if not isinstance(values, dict):
        raise RecordError(f"{where}: the {what} is {type(values).__name__}, not a JSON object; {REMEDY}")
    found = values.get("format")
    if found is None:
        raise RecordError(
            f"{where}: the {what} has no format number, and this version reads format {FORMAT}; {REMEDY}"
        )
    if found != FORMAT or isinstance(found, bool):
        raise RecordError(
            f"{where}: the {what} has format {found!r}, and this version reads format {FORMAT}; {REMEDY}"
        )
    return values


def read_record(results: Sequence[str]) -> SampleRecord | None:
    """The record in what the host hands a task for scoring: `[answer, record]` of our models, `[answer]` of others.

    None where there is none. Raises RecordError where it can't be read.
    """
    return SampleRecord.from_json(results[1], "the sample's record") if len(results) > 1 else None


def logs_records(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a sample log is of a task that takes our records; a stock task may have a `record` field of its own."""
    return any(
        _is_ours(line["record"]) or UNREADABLE.items() <= line.items() for line in lines if "record" in line
    )


def logged_record(line: Mapping[str, Any], where: str) -> SampleRecord | None:
    """The record in a line of such a log; None where the run had none that it could read.

    Raises RecordError as :meth:`SampleRecord.from_dict` does.
    """
    values = line.get("record")
    return None if values is None else SampleRecord.from_dict(values, where)


def _is_ours(logged: object) -> bool:
    """Whether it was meant as a record, also of a version before records had numbers."""
    return isinstance(logged, dict) and ("format" in logged or {"status", "flow"} <= logged.keys())


@cache
def _types() -> dict[str, Any]:
    hints = get_type_hints(SampleRecord)
    return {item.name: hints[item.name] for item in fields(SampleRecord)}


def fits(value: object, kind: Any) -> bool:
    """Whether a value that came out of JSON is of a field's type; tuples are lists there."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    if origin is not None:  # a mapping
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) > LARGEST):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _told(kind: Any) -> str:
    """A field's type in words."""
    words = {int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return " or ".join(_told(one) for one in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return "a list, each of it " + words[inner[0]]
    if inner and get_origin(inner[1]) is tuple:
        return "an object of lists"
    return words.get(kind, "an object of numbers")
