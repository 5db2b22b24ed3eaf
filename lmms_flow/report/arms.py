"""What is compared: arms, each a checkpoint that answered questions under one flow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from ..flow import find_preset, preset_of
from ..flow.controls import FRAME_ORDERS, NONE, SHAM, SINGLE_FRAME, control_of, place_of
from ..flow.presets import UNVALIDATED


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """One question under one arm. `correct` is None where it was not answered (an error or a skipped sample).

    `status` is that of its record, or "unreadable" where there is none that can be read. What is empty or None was
    not written down, as in the logs of models that are not ours.
    """

    task: str  # whose document it is; arms of one task share it
    doc_id: int
    correct: bool | None
    status: str
    category: str = ""  # of the question, within its task
    reason: str = ""  # why it is not "ok"
    answer: str = ""
    target: str = ""  # the right answer
    question: str = ""  # as the host logged it
    prompt_digest: str = ""
    data_digest: str = ""
    frames: tuple[int, ...] = ()
    edges_kept: int = 0
    edges_total: int = 0
    flops: int | None = None
    flops_full: int | None = None
    seconds: float = 0.0  # of the model
    shared_seconds: float | None = None  # reading and encoding the video, once for all arms
    chance: float | None = None  # of guessing right; None where the options are not known
    id: str = ""  # the document's own
    options: Mapping[str, float] = field(default_factory=dict)  # letter -> probability of being the answer
    video: str = ""  # where its file was when the question was answered
    clip: str = ""  # that file by what is in it
    pair: str = ""  # id of the document about the clip that is its pair; empty where it has none
    video_key: str = ""  # what the document itself calls its video
    video_of: str = ""  # the video that it is about, by both (`same_video.py`)

    @property
    def cluster(self) -> str:
        """Equal for questions about one video, which are no independent samples; else the question's own."""
        return self.video_of or self.clip or f"question {self.task} {self.doc_id}"

    @property
    def subtask(self) -> str:
        """The task, or the category within it; a task that is named after its one category is just the task."""
        if not self.category or self.task.endswith(self.category):
            return self.task
        return f"{self.task}: {self.category}"

    @property
    def benchmark(self) -> str:
        """The benchmark of its task, see :func:`benchmark_of`."""
        return benchmark_of(self.task)


@cache
def benchmark_of(task: str) -> str:
    """The first word of a task's name: `tvbench_flow_action_antonym` is of tvbench.

    A number behind `flow` tells apart what is asked of one benchmark with different frames: `longvideobench_flow_24`.
    """
    found = re.match(r"[^_]+(?:_flow_[0-9]+(?=_|$))?", task)
    return found[0] if found else task


@dataclass
class Arm:
    """Everything one checkpoint answered under one flow, from the same frames, by one engine and protocol."""

    checkpoint: str
    flow: str  # as it was written
    digest: str
    engine: str
    frames: int  # asked for, of each video; 0 where it is not known
    protocol: str = ""
    frame_order: str = ""  # of each video; empty: as it was filmed
    flow_name: str = ""
    num_layers: int | None = None
    runtime: str = ""  # numbers, device, attention and versions, in one line
    samples: dict[tuple[str, int], ScoredSample] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """Whether it is full attention."""
        return self.flow == NONE.name

    @property
    def is_of_the_whole_clip(self) -> bool:
        """Whether it saw the frames as they were filmed, and more than one: what edges cost is told by such arms."""
        return self.frames != 1 and not self.frame_order

    @property
    def is_sham(self) -> bool:
        """Whether it is the control that cuts nothing and runs through the masked kernels."""
        return self.flow == SHAM.name

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks that it answered questions of, in order."""
        return sorted({sample.benchmark for sample in self.samples.values()})

    def part(self, benchmark: str) -> Arm:
        """The same arm with the questions of one benchmark alone."""
        samples = {key: sample for key, sample in self.samples.items() if sample.benchmark == benchmark}
        return replace(self, samples=samples)

    @property
    def subtasks(self) -> list[str]:
        """The sub-tasks of its questions, in order."""
        return sorted({sample.subtask for sample in self.samples.values()})

    def answered(self, subtask: str | None = None) -> list[ScoredSample]:
        """The samples that count, of one sub-task or of all."""
        return [s for s in self.samples.values() if s.correct is not None and subtask in (None, s.subtask)]

    def chance(self, subtask: str | None = None) -> float:
        """The mean accuracy of guessing, of one sub-task or of all; nan where the options are not known."""
        known = [sample.chance for sample in self.answered(subtask) if sample.chance is not None]
        return sum(known) / len(known) if known else float("nan")

    def count(self, status: str) -> int:
        """Samples that ended as "ok", "error", "skipped" or "unreadable"; only those that are ok are scored."""
        return sum(sample.status == status for sample in self.samples.values())

    @property
    def skipped_because(self) -> str:
        """The commonest reason, where nothing of this arm was answered because it was skipped; else empty."""
        if self.answered() or not self.count("skipped"):
            return ""
        reasons = Counter(sample.reason for sample in self.samples.values() if sample.status == "skipped")
        return reasons.most_common(1)[0][0] or "no reason is given"

    @property
    def share_kept(self) -> float:
        """Kept edges of all edges, over the answered samples; nan where they were not counted."""
        answered = self.answered()
        total = sum(sample.edges_total for sample in answered)
        return sum(sample.edges_kept for sample in answered) / total if total else float("nan")

    @property
    def flops(self) -> tuple[float, float] | None:
        """FLOPs of a prefill, the mean over the questions, and its share of full attention's; None if not counted."""
        counted = [(s.flops, s.flops_full) for s in self.answered() if s.flops and s.flops_full]
        if not counted:
            return None
        spent = sum(flops for flops, _ in counted)
        return spent / len(counted), spent / sum(full for _, full in counted)

    @property
    def seconds(self) -> float:
        """What the model took for all questions, the video's reading and encoding aside."""
        return sum(sample.seconds for sample in self.samples.values())

    @property
    def shared_seconds(self) -> float | None:
        """What reading and encoding the videos took, shared by the arms of a question; None where it is not known."""
        known = [s.shared_seconds for s in self.samples.values() if s.shared_seconds is not None]
        return sum(known) if known else None


def baseline_of(arm: Arm, arms: Iterable[Arm]) -> Arm | None:
    """What an arm is compared with: full attention of the same checkpoint, protocol and frames.

    It has questions in common with the arm; one of the same engine is preferred. The baseline of full attention itself
    is the one on the most frames as they were filmed: a single frame, or a video played backwards, against the video.
    """
    baselines = [
        other
        for other in arms
        if other.is_baseline
        and other.checkpoint == arm.checkpoint
        and (
            other.protocol == arm.protocol or not other.protocol or not arm.protocol
        )  # models that are not ours don't say it
        and not other.samples.keys().isdisjoint(arm.samples)
    ]
    if arm.is_baseline:
        filmed = [other for other in baselines if not other.frame_order]
        least = arm.frames - bool(arm.frame_order)
        more = [other for other in filmed if other.frames > least and arm.frames > 0]
        return max(more, key=lambda other: (other.frames, other.engine == arm.engine), default=None)
    shown = (arm.frames, arm.frame_order)
    same = [other for other in baselines if (other.frames, other.frame_order) == shown]
    return max(same, key=lambda o: (o.protocol == arm.protocol, o.engine == arm.engine), default=None)


def sham_of(arm: Arm, arms: Iterable[Arm]) -> Arm | None:
    """The sham arm beside this one: nothing is cut, so what it flips is numerical noise."""
    beside = (arm.checkpoint, arm.protocol, arm.frames, arm.frame_order, arm.engine)
    same = (
        a
        for a in arms
        if a.is_sham
        and (a.checkpoint, a.protocol, a.frames, a.frame_order, a.engine) == beside
        and a is not arm
    )
    return next(same, None)


def order_of(arm: Arm) -> tuple[object, ...]:
    """The place of an arm among others: by checkpoint, full attention first, pathways beside their controls."""
    return arm.checkpoint, place_of(arm.flow), bool(arm.frame_order), -arm.frames, arm.frame_order


def arm_names(arms: Sequence[Arm]) -> list[str]:
    """The flow of each arm as it was written, with a remark, and with what else tells the arms apart.

    Frames, engine and protocol are named where the arms differ in them (a single frame has its name for it), the digest
    where nothing else differs.
    """
    frames = len({arm.frames for arm in arms if arm.frames > 1}) > 1
    single = len({arm.frames for arm in arms}) > 1
    engines = len({arm.engine for arm in arms}) > 1
    protocols = len({arm.protocol for arm in arms}) > 1
    names = []
    for arm in arms:
        count = f"{arm.frames} frames" if frames and arm.frames > 1 else ""
        if arm.frames == 1 and single and not arm.is_baseline:
            count = "1 frame"
        protocol = f"{arm.protocol} protocol" if protocols and arm.protocol else ""
        order = "" if arm.is_baseline else arm.frame_order
        parts = [arm.flow + _remark(arm), order, count, arm.engine if engines else "", protocol]
        names.append(", ".join(part for part in parts if part))
    twice = Counter((arm.checkpoint, name) for arm, name in zip(arms, names, strict=True))
    return [
        f"{name}, digest {arm.digest}" if twice[arm.checkpoint, name] > 1 else name
        for arm, name in zip(arms, names, strict=True)
    ]


def _remark(arm: Arm) -> str:
    if arm.is_baseline and arm.frame_order:
        return f" ({_order_remark(arm.frame_order)})"
    if arm.is_baseline and arm.frames == 1:
        return f" ({SINGLE_FRAME.remark})"
    if _is_unvalidated(arm):
        return " (unvalidated)"
    control = control_of(arm.flow)
    return f" ({control.remark})" if control and control.remark else ""


def _order_remark(text: str) -> str:
    """In words, with the seed of a random order."""
    name, _, seed = text.partition(":")
    remark = next((control.remark for control in FRAME_ORDERS if control.name == name), name)
    return f"{remark}, {seed}" if seed else remark


def _is_unvalidated(arm: Arm) -> bool:
    """Whether a closed pathway is meant that nobody has scored on its checkpoint yet."""
    words = [word for text in (arm.flow_name, arm.flow) for word in re.split(r"[+:]", text)]
    closed = [word for word in words if word.endswith(("_closed", "-closed"))]
    if not closed:
        return False
    found = next((preset[0] for preset in map(find_preset, closed) if preset), preset_of(arm.checkpoint))
    return found is None or UNVALIDATED in found.scored_by(closed=True)
