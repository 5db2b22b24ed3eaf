"""Which questions are about one video: they are no independent samples, so they are one cluster of every interval.

Questions belong together that share the video's file or the document's own key for the video. A data set may cut one
video into several files (one key, several files), or name one file twice (one file, several keys).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .arms import Arm, benchmark_of


@dataclass(frozen=True)
class Marks:
    """What a question is known by: its document's place, its video's file and the document's key for its video."""

    task: str
    doc_id: int
    clip: str = ""
    video_key: str = ""

    @property
    def shared(self) -> tuple[Hashable, ...]:
        """What it may share with others; a key means something within its benchmark only."""
        own: tuple[Hashable, ...] = ((self.task, self.doc_id),)
        clip = (("clip", self.clip),) if self.clip else ()
        key = (("key", benchmark_of(self.task), self.video_key),) if self.video_key else ()
        return (*own, *clip, *key)

    @property
    def alone(self) -> str:
        """The name of its cluster where it shares its video with no key: by its file, else by itself."""
        return self.clip or f"question {self.task} {self.doc_id}"


def joined(groups: Sequence[Sequence[Hashable]]) -> list[int]:
    """The number of each group's cluster: groups are one that share something, or that others join."""
    number: dict[Hashable, int] = {}
    edges = [
        (number.setdefault(group[0], len(number)), number.setdefault(mark, len(number)))
        for group in groups
        for mark in group
    ]
    if not edges:
        return []
    rows, columns = zip(*edges, strict=True)
    graph = coo_array(([True] * len(edges), (rows, columns)), shape=(len(number), len(number)))
    _, component = connected_components(graph, directed=False)
    return [int(component[number[group[0]]]) for group in groups]


def videos_of(questions: Sequence[Marks]) -> list[str]:
    """The name of the video that each question is about, equal where they are about one."""
    if not any(question.video_key for question in questions):
        return [question.alone for question in questions]
    names: dict[int, str] = {}
    clusters = joined([question.shared for question in questions])
    return [
        names.setdefault(cluster, question.alone)
        for cluster, question in zip(clusters, questions, strict=True)
    ]


def with_videos(arms: Iterable[Arm]) -> list[Arm]:
    """The same arms, each sample with the video that it is about, told from what all arms know of it."""
    found = list(arms)
    samples = [sample for arm in found for sample in arm.samples.values()]
    marks = [Marks(one.task, one.doc_id, one.clip, one.video_key) for one in samples]
    named: Mapping[tuple[str, int], str] = {
        (one.task, one.doc_id): name
        for one, name in zip(samples, videos_of(marks), strict=True)
        if one.clip or one.video_key  # a sample that failed knows less than the other arms'
    }
    for arm in found:
        for place, sample in arm.samples.items():
            if place in named:
                arm.samples[place] = replace(sample, video_of=named[place])
    return found
