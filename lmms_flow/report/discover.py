"""From a flow map that ran to a flow: what `lmms-flow discover` does.

The paper's rule (appendix H) is applied to the map's curves, and the pathway is written as a flow's YAML file, which
says in its comment where it comes from.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ..errors import FlowError, ReportError, nearest
from ..flow import Flow
from ..flow.pathway import KINDS, NOWHERE, written
from ..flow.trace_settings import HOW
from ..trace.bins import EFFECTIVE, LayerBins
from ..trace.curves import Among, FlowMap, Of
from .maps import read_maps
from .table import Column, Table

Folders = Sequence[str | Path]


@dataclass(frozen=True)
class Rule:
    """How the rule is applied.

    Args:
        below: per cent; a bin is effective if its mean change lies below.
        width: layers of a bin; None: the paper's 5, in shallower models the same share of the depth.
        of: whose probability: of the baseline's answer, or of the true option.
        among: which questions: the paper takes those that full attention answers right.
        tasks: of which tasks the questions are; empty: of all.
        closed: whether the pathway closes the template text too.
    """

    below: float = EFFECTIVE
    width: int | None = None
    of: Of = "answer"
    among: Among = "right"
    tasks: tuple[str, ...] = ()
    closed: bool = False


@dataclass(frozen=True, eq=False)
class Discovery:
    """What the rule finds in one map: the bins of each kind of edge, and the layers in which it is kept.

    An empty range belongs to a kind that no bin asks for. `asked` are the questions that were swept, `questions` those
    that the curves are means of.
    """

    of: FlowMap
    rule: Rule
    bins: Mapping[str, LayerBins]
    asked: int
    questions: int
    clips: int

    @property
    def ranges(self) -> dict[str, range]:
        """The kept layers of each of a pathway's kinds, from 1."""
        return {kind: self.bins[kind].effective(self.rule.below) for kind in KINDS}

    @property
    def pathway(self) -> dict[str, str]:
        """The same as a flow's file writes it."""
        return {kind: written(layers) for kind, layers in self.ranges.items()}

    def table(self) -> Table:
        """The bins in per cent (the paper's Table E(b)), and the layers that follow from them (Table E(a))."""
        first = self.bins[KINDS[0]]
        names = [written(first.layers(number)) for number in range(len(first.means))]
        title = f"{self.of.checkpoint} on {self.of.benchmark}: {self.questions} of {self.asked} questions"
        rows = [
            (kind, *(f"{mean:+.1f}" for mean in self.bins[kind].means), layers)
            for kind, layers in self.pathway.items()
        ]
        return Table("discovery", title, (Column("%"), *map(Column, names), Column("kept")), tuple(rows))


def find(folders: Folders, rule: Rule, records: Folders = (), checkpoint: str | None = None) -> Discovery:
    """Applies the rule to the one map in these folders that can be meant.

    Args:
        folders: lmms-eval's output folders, or folders of records.
        rule: how it is applied.
        records: where the records are, where the runs' arguments don't lead there.
        checkpoint: whose map, where there are several.

    Raises:
        ReportError: there is no such map, or more than one.
        FlowError: the map lacks a kind of edge, a layer, or questions.
    """
    return discover(_one(read_maps(folders, records), folders, checkpoint), rule)


def discover(flow_map: FlowMap, rule: Rule) -> Discovery:
    """What the rule finds in a map. Raises FlowError where it lacks a kind of edge, a layer, or questions."""
    if not -100 <= rule.below < 0:
        raise FlowError(
            f"the threshold is a fall in per cent, below 0 and not below -100, not {rule.below:g}"
        )
    if flow_map.how != HOW[0]:
        raise FlowError(f"the rule needs cuts before the softmax, and this map's are made {flow_map.how}")
    if flow_map.style != "center":
        raise FlowError(f"the rule needs windows around each layer, and this map's style is {flow_map.style}")
    for task in rule.tasks:
        if task not in flow_map.subtasks:
            raise FlowError(
                f"the map has no task {task!r}{nearest(task, flow_map.subtasks)} (tasks: "
                f"{', '.join(flow_map.subtasks)})"
            )
    part = flow_map.part(*rule.tasks) if rule.tasks else flow_map
    bins = {kind: part.bins(kind, of=rule.of, among=rule.among, width=rule.width) for kind in KINDS}
    curve = part.curve(KINDS[0], of=rule.of, among=rule.among, resamples=0)
    return Discovery(part, rule, bins, len(part.samples), curve.questions, curve.clips)


def _one(maps: Sequence[FlowMap], folders: Folders, checkpoint: str | None) -> FlowMap:
    """The map with a pathway's kinds in it, of the checkpoint where one is named."""
    where = ", ".join(map(str, folders))
    usable = [
        each
        for each in maps
        if (each.style, each.how) == ("center", HOW[0]) and set(KINDS) <= set(each.knockouts)
    ]
    if not usable:
        raise ReportError(
            f"no flow map with {', '.join(KINDS)} in windows around each layer in {where}: run a benchmark's map "
            "first, such as --tasks flowbench_flow_map, with --log_samples --output_path DIR"
        )
    named = [each for each in usable if checkpoint in (None, each.checkpoint)]
    if not named:
        known = sorted({each.checkpoint for each in usable})
        raise ReportError(
            f"no flow map of {checkpoint!r} in {where}{nearest(str(checkpoint), known)} (checkpoints: "
            f"{', '.join(known)})"
        )
    if len(named) > 1:
        said = "; ".join(
            f"{m.checkpoint} on {m.benchmark}, window {m.window}, {m.frames} frames" for m in named
        )
        raise ReportError(
            f"{len(named)} flow maps in {where} ({said}): name one with --checkpoint, or give the folder of one run"
        )
    return named[0]


def flow_file(discovery: Discovery, name: str, command: Sequence[str]) -> dict[str, Any]:
    """The content of the flow's YAML file."""
    return {
        "name": name,
        "comment": provenance(discovery, command),
        "layers": discovery.of.num_layers,
        "pathway": discovery.pathway,
        "closed": discovery.rule.closed,
    }


def provenance(discovery: Discovery, command: Sequence[str]) -> str:
    """Where a flow comes from, in lines: what was swept, by which rule, with which command and version."""
    of, rule = discovery.of, discovery.rule
    frames = f"{of.frames} frames, " if of.frames else ""
    lines = [
        "Found by the paper's rule (appendix H) in a flow map.",
        f"checkpoint: {of.checkpoint}",
        f"tasks: {', '.join(of.subtasks)} ({frames}{of.protocol or 'unknown'} protocol)",
        f"samples: {discovery.questions} of {discovery.asked} questions about {discovery.clips} clips "
        f"({_AMONG[rule.among]})",
        f"window: {of.window} layers around each of {of.num_layers}",
        f"bins: {discovery.bins[KINDS[0]].width} layers, kept from the first to the last bin below {rule.below:g} % of "
        f"{'the answer' if rule.of == 'answer' else 'the true option'}'s probability",
        *(f"  {kind}: {_means(bins)}" for kind, bins in discovery.bins.items()),
        f"command: {shlex.join(command)}",
        f"version: lmms-flow {version('lmms-flow')}",
    ]
    return "\n".join(lines) + "\n"


_AMONG = {
    "right": "those that full attention answers right",
    "wrong": "those that full attention answers wrong",
    "all": "right or wrong",
}


def _means(bins: LayerBins) -> str:
    said = (f"{written(bins.layers(number))} {mean:+.2f}" for number, mean in enumerate(bins.means))
    return ", ".join(said)


def write_flow(content: Mapping[str, Any], file: Path) -> Flow:
    """Writes a flow's YAML file, and reads it again as every run does. Raises FlowError where it is no flow."""
    if not file.name.lower().endswith((".yaml", ".yml")):
        raise ReportError(f"--output {file}: write a name that ends in .yaml or .yml")
    if all(layers == NOWHERE for layers in content["pathway"].values()):
        raise FlowError(
            "no bin of any kind of edge lies below the threshold, so the rule keeps no edge and finds no pathway; "
            "a threshold nearer to 0 (--below) or more questions may"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)
    made = file.with_name(f".{file.name}.{os.getpid()}")
    made.write_text(text, encoding="utf-8")
    os.replace(made, file)  # a run that reads the file never sees half of it
    flow = Flow.load(file)
    flow.bind(int(content["layers"]))
    return flow


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they read."""


def _as_it_reads(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _as_it_reads)
