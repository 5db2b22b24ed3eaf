"""`lmms-flow discover`: from a map to a flow's file. The paper's own tables first, as maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lmms_flow.errors import FlowError, ReportError, UserError
from lmms_flow.flow import Flow
from lmms_flow.flow.pathway import KINDS
from lmms_flow.report import discover as discovering
from lmms_flow.report.discover import Rule, discover, find, flow_file, write_flow
from lmms_flow.trace.curves import FlowMap, MapSample

# Tables E(b) and E(a) of LLaVA-NeXT-7B-Video-FT.
BINS = (
    (-4.2, -11.1, -6.3, -0.2, 0, -0.2, -0.2),
    (-3.9, -15.1, -21.5, -5.6, -0.2, 0, 0),
    (-0.3, -1.2, -4.5, -19.3, -15.1, 0.7, 1.1),
)
RANGES = ("6-15", "6-20", "16-25")
LAYERS = 32
CHECKPOINT = "byminji/LLaVA-NeXT-7B-Video-FT"


def sample(
    doc_id: int, change: Any, right: bool = True, task: str = "tvbench_flow_action_antonym"
) -> MapSample:
    """A question whose answer's probability changes by so many per cent, [knockout, centre]."""
    changed = 0.5 * (1 + np.asarray(change, dtype=np.float64) / 100)
    shape = changed.shape
    return MapSample(
        str(doc_id), doc_id, task, "", f"clip {doc_id}", ("A", "B"), "A", "A", 0.5, np.array([0.5, 0.4]),
        changed, np.stack([changed, changed], -1), np.zeros(shape, dtype=np.int64), (0,), right,
    )  # fmt: skip


def papers_map(**fields: Any) -> FlowMap:
    """The paper's means, as a map of two questions around them, and a wrong answer that says otherwise."""
    curves = np.array([[bins[layer // 5] for layer in range(LAYERS)] for bins in BINS])
    samples = (sample(0, curves - 1), sample(1, curves + 1), sample(2, np.zeros_like(curves), right=False))
    values: dict[str, Any] = {
        "checkpoint": CHECKPOINT, "benchmark": "tvbench", "protocol": "paper", "frames": 8,
        "knockouts": KINDS, "centres": tuple(range(1, LAYERS + 1)), "window": 9, "style": "center",
        "num_layers": LAYERS, "samples": samples,
    }  # fmt: skip
    return FlowMap(**values | fields)


def test_the_rule_on_a_map_with_the_papers_means_gives_the_papers_ranges() -> None:
    found = discover(papers_map(), Rule())
    assert found.pathway == dict(zip(KINDS, RANGES, strict=True))
    assert found.bins["cross_frame"].means == pytest.approx(BINS[0])
    assert (found.asked, found.questions, found.clips) == (3, 2, 2)
    assert [row[-1] for row in found.table().rows] == list(RANGES)


def test_the_file_is_a_flow_and_says_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "new" / "found.yaml"
    found = discover(papers_map(), Rule(closed=True))
    flow = write_flow(flow_file(found, "found", ["lmms-flow", "discover", "my runs"]), file)
    assert flow.bind(LAYERS).cuts == Flow.load("effective-llava-next-7b-closed").bind(LAYERS).cuts
    content = yaml.safe_load(file.read_text())
    assert (content["layers"], content["closed"]) == (LAYERS, True)
    for said in (
        f"checkpoint: {CHECKPOINT}",
        "tasks: tvbench_flow_action_antonym (8 frames, paper protocol)",
        "samples: 2 of 3 questions about 2 clips (those that full attention answers right)",
        "window: 9 layers around each of 32",
        "bins: 5 layers, kept from the first to the last bin below -5 % of the answer's probability",
        "  cross_frame: 1-5 -4.20, 6-10 -11.10, 11-15 -6.30, 16-20 -0.20, 21-25 +0.00, 26-30 -0.20, 31-32 -0.20",
        "command: lmms-flow discover 'my runs'",
        "version: lmms-flow ",
    ):
        assert said in content["comment"]
    assert list(tmp_path.rglob("*")) == [file.parent, file], "nothing else is left behind"


def test_what_the_rule_is_told_counts(tmp_path: Path) -> None:
    assert discover(papers_map(), Rule(below=-10)).pathway["cross_frame"] == "6-10"
    assert discover(papers_map(), Rule(among="all")).bins["cross_frame"].means[1] == pytest.approx(
        -11.1 * 2 / 3
    )
    assert len(discover(papers_map(), Rule(width=8)).bins["cross_frame"].means) == 4
    nothing = discover(papers_map(), Rule(below=-99))
    with pytest.raises(FlowError, match="the rule keeps no edge and finds no pathway"):
        write_flow(flow_file(nothing, "n", []), tmp_path / "n.yaml")
    with pytest.raises(ReportError, match=r"write a name that ends in \.yaml or \.yml"):
        write_flow(flow_file(nothing, "n", []), tmp_path / "n.json")


@pytest.mark.parametrize(
    ("fields", "rule", "message"),
    [
        ({}, Rule(below=5), "below 0"),
        ({}, Rule(below=float("nan")), "below 0"),
        ({}, Rule(tasks=("tvbench_flow_action_antonim",)), "did you mean 'tvbench_flow_action_antonym'"),
        ({"style": "to_layer"}, Rule(), "this map's style is to_layer"),
        ({"samples": ()}, Rule(), "no question is left"),
        (
            {"knockouts": ("cross_frame", "video:question", "video:last")},
            Rule(),
            "has no knockout 'question:last'",
        ),
    ],
)
def test_a_map_that_does_not_serve_is_refused(fields: dict[str, Any], rule: Rule, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        discover(papers_map(**fields), rule)
    assert "\n" not in str(caught.value)


def test_which_map_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = [papers_map(), papers_map(checkpoint="other"), papers_map(style="inverse")]
    monkeypatch.setattr(discovering, "read_maps", lambda folders, records: maps)
    assert find(["out"], Rule(), checkpoint="other").of is maps[1]
    with pytest.raises(ReportError, match="2 flow maps in out .* name one with --checkpoint"):
        find(["out"], Rule())
    with pytest.raises(ReportError, match="did you mean 'other'"):
        find(["out"], Rule(), checkpoint="othr")
    maps[:] = maps[2:]
    with pytest.raises(ReportError, match="run a benchmark's map first"):
        find(["out"], Rule())
