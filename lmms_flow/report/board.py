"""A board: the arms of one benchmark, each with its name and its baseline, and how they are tested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..errors import ReportError
from .agreement import check_agreement
from .arms import Arm, ScoredSample, arm_names, baseline_of, sham_of
from .pairing import Paired, paired
from .simultaneous import Change, Simultaneous, simultaneous
from .statistics import RESAMPLES, Accuracy, Mean, accuracy, holm, macro_by_video


@dataclass(frozen=True)
class Settings:
    """`margin` is the largest difference that counts as none, as a share: 0.02 is two points of accuracy."""

    margin: float = 0.02
    seed: int = 0
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        if not (0 < self.margin < 1 and math.isfinite(self.margin)):
            raise ReportError(
                f"--margin {self.margin}: write a share between 0 and 1, such as 0.02 for two points"
            )
        if self.seed < 0:
            raise ReportError(f"--seed {self.seed}: write a whole number from 0")


@dataclass(frozen=True)
class Entry:
    """One arm on one benchmark."""

    arm: Arm
    name: str
    settings: Settings
    baseline: Entry | None = None
    sham: Entry | None = None

    @property
    def label(self) -> tuple[str, ...]:
        """The name, and what it stands for: checkpoint, flow, digest, engine, frames, their order, protocol."""
        arm = self.arm
        return (
            self.name,
            arm.checkpoint,
            arm.flow,
            arm.digest,
            arm.engine,
            str(arm.frames or ""),
            arm.frame_order,
            arm.protocol,
        )

    @cached_property
    def accuracy(self) -> Accuracy:
        """The accuracy over all questions."""
        return accuracy(self.arm)

    @cached_property
    def by_subtask(self) -> dict[str, Accuracy]:
        """The accuracy on each sub-task."""
        return {subtask: accuracy(self.arm, subtask) for subtask in self.arm.subtasks}

    @cached_property
    def macro(self) -> Mean:
        """The mean over sub-tasks, each counting the same."""
        return macro_by_video(self.arm, self.settings.seed, self.settings.resamples)

    @cached_property
    def test(self) -> Paired | None:
        """Against the baseline; None where there is none, or no question that both answered."""
        if self.baseline is None:
            return None
        found = paired(self.arm, self.baseline.arm)
        return found if found.common else None

    def test_of(self, subtask: str) -> Paired | None:
        """Against the baseline on one sub-task; None as in :attr:`test`."""
        if self.baseline is None:
            return None
        found = paired(self.arm, self.baseline.arm, subtask)
        return found if found.common else None

    @cached_property
    def flips(self) -> list[Flip]:
        """The questions whose answer is not the baseline's, in order."""
        return [] if self.baseline is None else list(_flips(self.arm, self.baseline.arm))


@dataclass(frozen=True)
class Together:
    """What is said of an arm as one of many: max-T's interval and p value, and p adjusted by Holm's method."""

    at_once: Simultaneous
    holm: float


@dataclass(frozen=True)
class Flip:
    """A question that an arm answered otherwise than its baseline."""

    before: ScoredSample
    after: ScoredSample

    @property
    def kind(self) -> str:
        """What happened: "lost" (right, now wrong), "won" (wrong, now right) or "other" (wrong in another way)."""
        if self.before.correct == self.after.correct:
            return "other"
        return "lost" if self.before.correct else "won"


def _flips(arm: Arm, baseline: Arm) -> list[Flip]:
    found = []
    for key, sample in sorted(arm.samples.items()):
        other = baseline.samples.get(key)
        if other is None or sample.correct is None or other.correct is None:
            continue
        elsewhere = not sample.correct and sample.answer.strip() != other.answer.strip()
        if sample.correct != other.correct or (not other.correct and elsewhere):
            found.append(Flip(other, sample))
    return found


@dataclass(frozen=True)
class Board:
    """All arms on one benchmark. `notes` say what its reader should know, such as differences that were allowed."""

    benchmark: str
    entries: tuple[Entry, ...]
    settings: Settings
    notes: tuple[str, ...] = field(default=())

    @property
    def checkpoints(self) -> list[str]:
        """The checkpoints, in the order of their first arms."""
        return list(dict.fromkeys(entry.arm.checkpoint for entry in self.entries))

    @cached_property
    def alike(self) -> list[Board]:
        """The arms that were asked the same questions, a board each, most questions first.

        Accuracies of different questions don't belong into one table.
        """
        parts: dict[frozenset[tuple[str, int]], list[Entry]] = {}
        for entry in self.entries:
            parts.setdefault(frozenset(entry.arm.samples), []).append(entry)
        ordered = sorted(parts.items(), key=lambda part: -len(part[0]))
        return [replace(self, entries=tuple(entries)) for _, entries in ordered]

    @cached_property
    def shares_videos(self) -> bool:
        """Whether some questions are about one and the same video."""
        return any(entry.accuracy.videos is not None for entry in self.entries)

    @cached_property
    def families(self) -> list[list[Entry]]:
        """The arms that have a baseline, those of a checkpoint together: what is said of all of them at once."""
        tested = [entry for entry in self.entries if entry.test is not None]
        return [[one for one in tested if one.arm.checkpoint == name] for name in self.checkpoints]

    @cached_property
    def together(self) -> dict[tuple[str, ...], Together]:
        """What holds of each arm that has a baseline together with all others of its checkpoint, by its label."""
        found = {}
        for family in self.families:
            changes = [Change.of(one.arm, one.baseline.arm) for one in family if one.baseline]
            at_once = simultaneous(changes, self.settings.seed)
            adjusted = holm([one.test.p_value for one in family if one.test])
            for entry, joint, p in zip(family, at_once, adjusted, strict=True):
                found[entry.label] = Together(joint, p)
        return found

    @cached_property
    def subtasks(self) -> list[str]:
        """The sub-tasks of all arms, in order."""
        return sorted({subtask for entry in self.entries for subtask in entry.arm.subtasks})

    @cached_property
    def short(self) -> dict[str, str]:
        """Sub-tasks by their names without what all of them begin with: "action antonym"."""
        words = [subtask.partition(": ")[0].split("_") for subtask in self.subtasks]
        shared = 0
        while all(len(name) > shared + 1 and name[shared] == words[0][shared] for name in words):
            shared += 1
        names = {}
        for subtask, name in zip(self.subtasks, words, strict=True):
            task, category = " ".join(name[shared:]), subtask.partition(": ")[2]
            alone = len({tuple(other) for other in words}) == 1
            names[subtask] = category if category and alone else f"{task}: {category}" if category else task
        return names


def make_boards(
    arms: Sequence[Arm], settings: Settings, *, allow_differences: bool = False, notes: Sequence[str] = ()
) -> list[Board]:
    """One board a benchmark. Raises ReportError where arms were not asked the same, unless that is allowed."""
    boards = []
    for benchmark in sorted({name for arm in arms for name in arm.benchmarks}):
        parts = [part for part in (arm.part(benchmark) for arm in arms) if part.samples]
        said = [*notes, *check_agreement(parts, allow_differences=allow_differences)]
        boards.append(_board(benchmark, parts, settings, said))
    return boards


def _board(benchmark: str, arms: Sequence[Arm], settings: Settings, notes: list[str]) -> Board:
    names = dict(zip(map(id, arms), arm_names(arms), strict=True))

    def entry(arm: Arm, baseline: Arm | None = None, sham: Arm | None = None) -> Entry:
        return Entry(
            arm,
            names[id(arm)],
            settings,
            None if baseline is None else entry(baseline),
            None if sham is None else entry(sham, baseline),
        )

    entries = tuple(entry(arm, baseline_of(arm, arms), sham_of(arm, arms)) for arm in arms)
    for item in entries:
        other = item.baseline
        if other is not None and other.arm.engine != item.arm.engine:
            notes.append(f"{item.name!r} ran on engine {item.arm.engine}, its baseline on {other.arm.engine}")
    unreadable = sum(arm.count("unreadable") for arm in arms)
    if unreadable:
        notes.append(f"{unreadable} samples have no record that can be read; they are left out")
    if any(item.baseline and item.arm.is_baseline for item in entries):
        notes.append(
            "baseline: full attention (none) on the same frames; of full attention on one frame, or on frames in "
            "another order, full attention on the most frames as they were filmed"
        )
    board = Board(benchmark, entries, settings, tuple(notes))
    return replace(board, notes=(*notes, *_unequal(board)))


def _unequal(board: Board) -> list[str]:
    """Says it where arms were not asked the same questions."""
    if len(board.alike) < 2:
        return []
    sizes = "; ".join(
        f"{', '.join(entry.name for entry in part.entries)}: {len(part.entries[0].arm.samples)}"
        for part in board.alike
    )
    return [f"the arms were not asked the same questions, so they have tables of their own ({sizes})"]
