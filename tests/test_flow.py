"""What is cut: the paper's numbers first, then every rule against a naive builder, then what must be refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmms_flow import Flow, FlowError, Layout
from lmms_flow.assets import flow_tiny_dir
from lmms_flow.engine import keep_masks
from lmms_flow.flow import (
    PRESET_NAMES,
    PRESETS,
    Knockout,
    LayerRange,
    Pathway,
    find_preset,
    preset_of,
    prompt_layout,
)
from lmms_flow.flow.controls import control_of, place_of
from lmms_flow.flow.essential import essential
from lmms_flow.flow.layout import merge
from lmms_flow.flow.leaks import leaks
from lmms_flow.flow.pathway import BoundPathway
from lmms_flow.flow.presets import Preset, paper_share
from tests.support.layouts import random_layout

# Kept edges with the lengths of the paper's prompts, in per cent of full attention, one decimal.
PAPER_SHARES = {
    "effective-llava-next-7b": 43.1,
    "effective-llava-next-13b": 36.7,
    "effective-mini-internvl-4b": 39.8,
    "effective-videollama3-7b": 57.5,
}
# The ranges of the presets, typed again here: cross-frame, video to question, question to last, depth. The first four
# are the paper's Table E(a), the last was found by scripts/flow_tiny/find_pathway.py; None is kept nowhere.
RANGES = {
    "effective-llava-next-7b": ((6, 15), (6, 20), (16, 25), 32),
    "effective-llava-next-13b": ((6, 15), (6, 20), (16, 30), 40),
    "effective-mini-internvl-4b": ((6, 15), (6, 20), (11, 30), 32),
    "effective-videollama3-7b": ((1, 15), (6, 20), (21, 28), 28),
    "effective-flow-tiny": ((1, 4), (3, 8), (5, 12), 12),
}


def preset_called(name: str) -> tuple[Preset, bool]:
    found = find_preset(name)
    assert found is not None
    return found


def pathway_of(flow: Flow, num_layers: int) -> BoundPathway:
    pathway = flow.bind(num_layers).pathway
    assert pathway is not None
    return pathway


@pytest.mark.parametrize(("name", "share"), PAPER_SHARES.items())
def test_released_presets_keep_the_papers_share_of_edges(name: str, share: float) -> None:
    preset, _ = preset_called(name)
    kept, total = Flow.load(name).kept_edges(preset.layout(), preset.layers)
    assert round(100 * kept / total, 1) == share


@pytest.mark.smoke
def test_the_papers_7b_prompt_has_the_published_number_of_edges() -> None:
    layout = PRESETS[0].layout()
    assert layout.num_tokens == 1267
    kept, total = Flow.load("effective-llava-next-7b").kept_edges(layout, 32)
    assert (kept, total) == (11_082_511, 25_704_896)  # 25.7M in Table 3


def test_the_papers_presets_are_told_from_our_own() -> None:
    assert {preset.name for preset in PRESETS if preset.from_paper} == set(PAPER_SHARES)
    (paper, _), (own, _) = map(preset_called, ("effective-llava-next-7b", "effective-flow-tiny"))
    assert [paper.scored_by(closed) for closed in (False, True)] == ["the paper", "nobody yet (unvalidated)"]
    assert [own.scored_by(closed) for closed in (False, True)] == ["this package, on flowbench"] * 2


Ranges = tuple[tuple[int, int] | None, tuple[int, int] | None, tuple[int, int] | None]


def naive_pathway(layout: Layout, layer: int, ranges: Ranges, closed: bool) -> np.ndarray:
    """The mask of one layer, token by token, from labels alone; shares no code with the library."""
    cross, to_question, to_last = ranges
    n = layout.num_tokens
    group = np.empty(n, dtype=object)
    frame = np.full(n, -1)
    for base in ("system", "video", "gap", "question", "tail", "last"):
        for r in layout.groups[base]:
            group[r.start : r.stop] = base
    for number, r in enumerate(layout.frames):
        frame[r.start : r.stop] = number
    asks = np.isin(group, ["question", "gap"] if closed else ["question"])
    ends = np.isin(group, ["tail", "last"] if closed else ["last"])
    video, last = group == "video", group == "last"
    query, key = np.arange(n)[:, None], np.arange(n)[None, :]
    keep = key <= query

    def inside(span: tuple[int, int] | None) -> bool:
        return span is not None and span[0] <= layer <= span[1]

    if not inside(cross):
        keep &= ~((frame[:, None] > frame[None, :]) & (frame[None, :] >= 0))
    if not inside(to_question):
        keep &= ~(asks[:, None] & video[None, :])
    if not inside(to_last):
        keep &= ~(ends[:, None] & asks[None, :])
    keep &= ~(ends[:, None] & video[None, :])
    keep &= ~(last[:, None] & last[None, :])
    if to_question is not None and layer > to_question[1]:
        keep &= ~(video[:, None] & video[None, :])
    if to_last is not None and layer > to_last[1]:
        keep &= ~(asks[:, None] & asks[None, :])
    return keep


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_presets_equal_a_naive_builder_on_random_layouts(name: str) -> None:
    preset, closed = preset_called(name)
    flow = Flow.load(name)
    for seed in range(300):
        layout = random_layout(seed)
        masks = keep_masks(flow, layout, preset.layers).numpy()
        assert flow.kept_edges(layout, preset.layers) == (
            masks.sum(),
            preset.layers * np.tri(layout.num_tokens).sum(),
        )
        for layer in range(1, preset.layers + 1):
            expected = naive_pathway(layout, layer, RANGES[preset.name][:3], closed)
            np.testing.assert_array_equal(masks[layer - 1], expected)


def own_pathway(ranges: Ranges, closed: bool) -> Flow:
    cross, enter, leave = (None if span is None else LayerRange(f"{span[0]}-{span[1]}") for span in ranges)
    return Flow("pathway", "mine", "mine", pathways=(Pathway(cross, enter, leave, closed),))


SOME_NOWHERE = [
    (None, (2, 3), (3, 4)),
    ((1, 2), None, (2, 3)),
    ((1, 2), (2, 3), None),
    (None, None, (2, 3)),
    (None, (2, 3), None),
    ((1, 2), None, None),
]


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("ranges", SOME_NOWHERE)
def test_a_kind_that_is_kept_nowhere_is_cut_in_every_layer(ranges: Ranges, closed: bool) -> None:
    flow = own_pathway(ranges, closed)
    for seed in range(60):
        layout = random_layout(seed)
        masks = keep_masks(flow, layout, 5).numpy()
        for layer in range(1, 6):
            np.testing.assert_array_equal(masks[layer - 1], naive_pathway(layout, layer, ranges, closed))
        assert flow.kept_edges(layout, 5)[0] == masks.sum()


def test_without_an_end_of_a_range_nothing_is_cut_after_it() -> None:
    whole = {Knockout("video", "video"), Knockout("question", "question"), Knockout("gap", "question")}
    for closed in (False, True):
        nowhere = own_pathway(((1, 2), None, None), closed).bind(4)
        assert not whole & frozenset().union(*nowhere.cuts)
        somewhere = own_pathway(((1, 2), (1, 2), (1, 3)), closed).bind(4)
        assert Knockout("video", "video") in somewhere.cuts[2]
        assert Knockout("question", "question") in somewhere.cuts[3]


RULES = (
    "video:question@2-3",
    "cross_frame",
    "stem:last+true_option:last@-2",
    "false_options:last",
    "video:options@all",
)


@pytest.mark.parametrize("text", RULES)
def test_cuts_remove_exactly_the_named_pairs(text: str) -> None:
    checked = 0
    for seed in range(60):
        layout = random_layout(seed, empty=False)
        flow = Flow.load(text)
        try:
            masks = keep_masks(flow, layout, 4).numpy()
        except FlowError:  # an option of no tokens
            with pytest.raises(FlowError, match="cuts nothing"):
                flow.bind(4).resolve(layout)
            continue
        expected = np.repeat(np.tri(layout.num_tokens, dtype=bool)[None], 4, axis=0)
        for rule in text.split("+"):
            names, _, layers = rule.partition("@")
            span = {"2-3": (1, 3), "-2": (0, 2)}.get(layers, (0, 4))
            pairs = _pairs(layout, names)
            for query, key in pairs:
                expected[span[0] : span[1], query, key] = False
        np.testing.assert_array_equal(masks, expected)
        assert flow.kept_edges(layout, 4)[0] == masks.sum()
        checked += 1
    assert checked > 20


def _pairs(layout: Layout, names: str) -> list[tuple[int, int]]:
    if names == "cross_frame":
        of = {token: i for i, r in enumerate(layout.frames) for token in r}
        return [(q, k) for q in of for k in of if of[k] < of[q]]
    source, target = names.split(":")
    return [(q, k) for r in layout.span(target) for q in r for s in layout.span(source) for k in s]


@pytest.mark.smoke
def test_random_control_draws_its_share_in_every_layer_and_is_seeded() -> None:
    layout = PRESETS[0].layout()
    flow = Flow.load("random:0.3:seed1")
    masks = keep_masks(flow, layout, 2)
    triangle = layout.num_tokens * (layout.num_tokens + 1) // 2
    assert (triangle - masks.sum((1, 2))).tolist() == [int(triangle * 0.3)] * 2
    assert not (masks[0] == masks[1]).all()
    cut = ~masks[0] & masks.new_ones(masks[0].shape).tril()
    assert int(cut.nonzero().min()) == 53  # nothing before the first video token, as row or as column
    assert (keep_masks(flow, layout, 2) == masks).all()
    assert not (keep_masks("random:0.3:seed2", layout, 2) == masks).all()
    assert flow.kept_edges(layout, 2)[0] == masks.sum()


def test_random_control_of_a_preset_cuts_exactly_as_many_edges() -> None:
    preset = PRESETS[0]
    layout = preset.layout()
    assert Flow.load(f"random:{preset.name}:seed3").kept_edges(layout, 32) == Flow.load(
        preset.name
    ).kept_edges(layout, 32)


def test_mirrored_keeps_the_same_kinds_in_the_layers_counted_from_the_other_end() -> None:
    mirrored = pathway_of(Flow.load("mirrored:effective-llava-next-7b"), 32)
    assert mirrored.cross_frame == range(18, 28)
    assert mirrored.video_question == range(13, 28)
    assert mirrored.question_last == range(8, 18)
    mirrored = pathway_of(Flow.load("mirrored:effective", checkpoint="flow-tiny"), 12)
    found = pathway_of(Flow.load("effective", checkpoint="flow-tiny"), 12)
    assert mirrored.question_last == range(13 - found.question_last[-1], 14 - found.question_last[0])


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_leak_audit_opens_the_released_presets_and_closes_the_closed(name: str) -> None:
    preset, closed = preset_called(name)
    routes = Flow.load(name).leaks(preset.layout(), preset.layers)
    if closed:
        assert routes == ()
        return
    relays = {group for route in routes for group, _ in route.steps}
    assert {"gap", "tail"} <= relays
    groups = {"system": range(1), "video": range(1, 3), "question": range(3, 4), "tail": range(4, 5)}
    without_gap = Layout(6, groups | {"last": range(5, 6)}, [range(1, 2), range(2, 3)])
    relays = {
        group for route in Flow.load(name).leaks(without_gap, preset.layers) for group, _ in route.steps
    }
    assert "tail" in relays
    assert "gap" not in relays


def test_leaks_name_the_layers_of_each_step() -> None:
    layout = PRESETS[0].layout()
    routes = [str(r) for r in Flow.load("video:last+video:gap+video:question+video:tail@3-").leaks(layout, 4)]
    assert routes == ["video -> tail (layer 1) -> last (layer 2)"]
    assert Flow.load("blind").leaks(layout, 4) == ()


def test_leaks_agree_with_reachability_token_by_token() -> None:
    """Whether any route is open, against walking the masks themselves."""
    rules = [
        "video:last",
        "video:question",
        "video:tail",
        "video:gap",
        "question:last",
        "tail:last@2-",
        "gap:question",
    ]
    rng = np.random.default_rng(0)
    seen = set()
    for seed in range(150):
        layout = random_layout(seed, empty=False)
        text = "+".join(rng.choice(rules, size=rng.integers(1, 8), replace=False))
        reached = np.zeros(layout.num_tokens, dtype=bool)
        for r in layout.span("video"):
            reached[r.start : r.stop] = True
        for mask in keep_masks(text, layout, 3).numpy():
            reached = reached | (mask & reached[None, :]).any(axis=1)
        assert bool(Flow.load(text).leaks(layout, 3)) == reached[-1]
        seen.add(bool(reached[-1]))
    assert seen == {True, False}


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("ranges", SOME_NOWHERE)
def test_every_open_route_is_a_leak_where_none_is_meant(ranges: Ranges, closed: bool) -> None:
    """Without layers for video:question or for question:last no route is the pathway's own."""
    flow, seen = own_pathway(ranges, closed), set()
    for seed in range(40):
        layout = random_layout(seed)
        reached = np.zeros(layout.num_tokens, dtype=bool)
        for r in layout.span("video"):
            reached[r.start : r.stop] = True
        for mask in keep_masks(flow, layout, 5).numpy():
            reached = reached | (mask & reached[None, :]).any(axis=1)
        routes = flow.leaks(layout, 5)
        if None in ranges[1:]:
            assert bool(routes) == reached[-1]
        seen.add(bool(routes))
    assert seen == ({False} if closed else {True, False})


NOWHERE = '{cross_frame: 1-4, "video:question": none, "question:last": 1-12}'


def test_what_enters_the_question_by_the_gap_is_a_leak_where_it_may_enter_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"pathway: {NOWHERE}")
    preset, _ = preset_called("effective-flow-tiny")
    routes = Flow.load(file).leaks(preset.layout(), preset.layers)
    assert [str(route) for route in routes] == [
        "video -> gap (layer 1) -> last (layer 2)",
        "video -> gap (layer 1) -> question (layer 2) -> last (layer 3)",
        "video -> tail (layer 1) -> last (layer 2)",
    ]


@pytest.mark.parametrize(
    "text",
    [*PRESET_NAMES, "blind", "cross_frame@3+video:last@1-2+video:last@5-7", "mirrored:" + PRESET_NAMES[0]],
)
def test_rules_cut_what_the_flow_cuts(text: str) -> None:
    preset, _ = find_preset(text.removeprefix("mirrored:")) or (PRESETS[0], False)
    bound = Flow.load(text).bind(preset.layers)
    rules = bound.rules()
    assert Flow.load("+".join(rules)).bind(preset.layers).cuts == bound.cuts
    assert len(set(rules)) == len(rules)


def test_rules_are_one_for_each_run_of_layers() -> None:
    bound = Flow.load("video:last@1-2+video:last@5-7+cross_frame@3").bind(12)
    assert bound.rules() == ("cross_frame@3-3", "video:last@1-2", "video:last@5-7")
    assert Flow.load("none").bind(12).rules() == Flow.load("random:0.3").bind(12).rules() == ()


def test_digest_is_of_the_meaning_not_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('{name: mine, cut: ["video:last", "video:question@6-20"]}')
    texts = (str(file), "video:question@6-20+video:last", "video:last@1-32+video:question@6-20")
    digests = {Flow.load(text).bind(32).digest for text in texts}
    assert len(digests) == 1
    assert Flow.load("video:question@6-21+video:last").bind(32).digest not in digests
    assert (
        len(
            {
                Flow.load(t).bind(32).digest
                for t in ("none", "sham", "blind", "random:0.2", "random:0.2:seed1")
            }
        )
        == 5
    )


def test_yaml_pathway_is_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    ranges = '{cross_frame: 6-15, "video:question": 6-20, "question:last": 16-25}'
    file.write_text(f"{{name: x, layers: 32, pathway: {ranges}, closed: false}}")
    assert Flow.load(file).bind(32).digest == Flow.load("effective-llava-next-7b").bind(32).digest
    file.write_text(f"{{pathway: {ranges}, closed: true}}")
    assert Flow.load(file).bind(32).digest == Flow.load("effective-llava-next-7b-closed").bind(32).digest
    file.write_text('{pathway: {cross_frame: -16, "video:question": 7, "question:last": "8-"}}')
    pathway = pathway_of(Flow.load(file), 32)
    assert (pathway.cross_frame, pathway.video_question, pathway.question_last) == (
        range(1, 17),
        range(7, 8),
        range(8, 33),
    )
    file.write_text(f"pathway: {NOWHERE}")
    assert pathway_of(Flow.load(file), 12).video_question == range(0)


def test_aliases_bind_by_repository_or_folder_never_by_size() -> None:
    assert (
        Flow.load("effective", checkpoint="byminji/LLaVA-NeXT-13B-Video-FT").name
        == "effective-llava-next-13b"
    )
    assert (
        Flow.load("effective_closed", checkpoint="data/VideoLLaMA3-7B/").name
        == "effective-videollama3-7b-closed"
    )
    for checkpoint in ("flow-tiny", str(flow_tiny_dir())):
        assert Flow.load("effective", checkpoint=checkpoint).name == "effective-flow-tiny"
        assert Flow.load("effective_closed", checkpoint=checkpoint).name == "effective-flow-tiny-closed"
    cached = "hub/models--byminji--LLaVA-NeXT-7B-Video-FT/snapshots/0123"
    found = preset_of(cached)
    assert found is not None
    assert found.name == "effective-llava-next-7b"
    with pytest.raises(
        FlowError, match=r"no pathway is known for checkpoint 'other/llava-7b'.*effective-llava-next-7b"
    ):
        Flow.load("effective", checkpoint="other/llava-7b")
    with pytest.raises(FlowError, match="is for 32 layers, the model has 12"):
        Flow.load("effective", checkpoint="byminji/LLaVA-NeXT-7B-Video-FT").bind(12)


@pytest.mark.parametrize(
    ("text", "layers"),
    [("6-20", range(6, 21)), ("21-", range(21, 33)), ("-16", range(1, 17)), ("7", range(7, 8)), ("all", range(1, 33)),
     ("first_half", range(1, 17)), ("second_half", range(17, 33))],
)  # fmt: skip
def test_layer_ranges_count_from_one_and_include_both_ends(text: str, layers: range) -> None:
    assert LayerRange(text).bind(32) == layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the flow is empty"),
        ("video:qestion", "rule 'video:qestion'.*no group 'qestion'; did you mean 'question'"),
        ("crossframe", "'crossframe' is not spelt as flows are: write cross_frame"),
        (
            "question:video",
            "rule 'question:video': no token of 'video' ever reads 'question'.*write video:question",
        ),
        ("frame.3:frame.1", "ever reads 'frame.3'"),
        ("video:last@40", "rule 'video:last@40'.*layer 40 does not exist, the model has layers 1-32"),
        ("video:last@0", "layers count from 1"),
        ("video:last@5-3", "run backwards: write 3-5"),
        ("video:last@", "layers are missing after '@'"),
        ("video:last@x", "are not a range"),
        ("video:last@fist_half", "did you mean 'first_half'"),
        ("video:last,video:tail", "is not spelt as flows are: write video:last\\+video:tail"),
        ("video:last+", "a rule is missing beside a '\\+'"),
        ("none+video:last", "'none' must stand alone: it takes no '\\+' and no '@'"),
        ("effective-llava-next-7b@1-3", "a preset takes no layers"),
        ("effective-llava-next-13b", "is for 40 layers, the model has 32"),
        ("effective-llava-nxt-7b", "did you mean 'effective-llava-next-7b'"),
        ("mirrored:cross_frame", "mirrored needs a preset"),
        ("random:1.5", "between 0 and 1"),
        ("random:abc", "random needs a share such as 0.58 or a preset, and 'abc' is not one"),
        ("random:0.5:sed1", "is no seed: write random:0.5:seed1"),
        ("random:0.99", "the share can be at most"),
        ("frame.8:last", "this prompt has 8 frames"),
        ("video:last@999999999", "are not a range"),
        ("frame.01:last", "no group 'frame.01'"),
        ("video:last@٣", "can't stand in a flow"),
        ("none@3", "'none' must stand alone"),
        ("effective@1-3", "a preset takes no layers"),
        ("video:last@none", "layers 'none' are not a range"),
        ("system:system+video:video", "leaves token 0 \\(system\\) without any key in layer 1"),
    ],
)
def test_bad_flows_get_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(FlowError, match=message) as caught:
        Flow.load(text).kept_edges(PRESETS[0].layout(), 32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("[1, 2]", "expected keys such as name: and cut:"),
        ("{cut: [video:last", "not valid YAML"),
        (
            "{name: x}",
            "what is cut beside it as cut:; this file has none",
        ),
        ("{cut: [a:b], random: {share: 0.1}}", "has cut and random"),
        ("{cuts: ['video:last']}", "unknown key 'cuts'; did you mean 'cut'"),
        ("{cut: []}", "needs a list of rules"),
        ("{cut: [{video: last}]}", "quote it"),
        ("{cut: ['video:lats']}", "did you mean 'last'"),
        ("{pathway: {cross_frame: 1-2}}", "video:question is missing"),
        (
            "{pathway: {cross_frame: 1.5, 'video:question': 1-2, 'question:last': 1-2}}",
            "the layers 1.5 are no range: write one such as 6-20",
        ),
        (
            "{pathway: {cross_frame: 1-2, 'video:question': , 'question:last': 1-2}}",
            "video:question: the layers None are no range: write one such as 6-20, or none for no layer",
        ),
        (
            "{pathway: {cross_frame: 1-2, 'video:question': None, 'question:last': 1-2}}",
            "did you mean 'none'",
        ),
        (
            "{pathway: {cross_frame: none, 'video:question': none, 'question:last': none}}",
            "a pathway must keep one of them; to cut the video off write the flow blind",
        ),
        (
            "{pathway: {cross_frame: 1-2, 'video:question': 1-2, 'question:last': 1-2}, closed: maybe}",
            "true or false",
        ),
        ("{layers: 12, cut: ['video:last']}", "is for 12 layers, the model has 32"),
        ("{layers: true, cut: ['video:last']}", "layers: must be"),
        ("{random: {share: 0.5, preset: effective-llava-next-7b}}", "needs either share: or preset:"),
        ("{random: {share: 0.5, seed: -1}}", "whole number from 0"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("{cut: ['video:last'], cut: ['video:question']}", "the key 'cut' stands twice"),
        ("{name: 2020-13-45, cut: ['video:last']}", "can't be read as YAML"),
        ("[" * 3000, "YAML"),
        ("{cut: ['video:last@40']}", "flow.yaml.*rule 'video:last@40': layer 40 does not exist"),
    ],
)
def test_bad_flow_files_name_the_file_and_what_to_write(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(content)
    with pytest.raises(FlowError, match=message) as caught:
        Flow.load(str(file)).kept_edges(PRESETS[0].layout(), 32)
    assert "\n" not in str(caught.value)


def test_a_preset_of_another_model_is_refused_also_at_the_same_depth() -> None:
    own, other = "byminji/LLaVA-NeXT-7B-Video-FT", "effective-mini-internvl-4b"
    with pytest.raises(FlowError, match="this checkpoint's is effective-llava-next-7b"):
        Flow.load(other, checkpoint=own)
    assert Flow.load(other, checkpoint="someone/else").name == other


def test_cross_frame_needs_frames_and_parts_need_to_be_known() -> None:
    layout = Layout(4, {"system": range(1), "video": range(1, 3), "last": range(3, 4)})
    with pytest.raises(FlowError, match="'cross_frame' needs the frames of the video"):
        Flow.load("effective-llava-next-7b").kept_edges(layout, 32)
    with pytest.raises(FlowError, match="group 'stem' was not found in this prompt"):
        Flow.load("stem:last").kept_edges(layout, 32)


def test_prompts_without_system_run_unless_a_token_is_left_without_keys() -> None:
    flow, outcomes = Flow.load("effective-llava-next-7b"), set()
    for seed in range(300):
        layout = random_layout(seed, system=False)
        naive = [naive_pathway(layout, layer, RANGES[flow.name][:3], False) for layer in (1, 6, 16, 21, 26)]
        bare = any(not mask.any(axis=1).all() for mask in naive)
        outcomes.add(bare)
        if bare:
            with pytest.raises(FlowError, match="without any key"):
                keep_masks(flow, layout, 32)
        else:
            masks = keep_masks(flow, layout, 32).numpy()
            np.testing.assert_array_equal(masks[[0, 5, 15, 20, 25]], naive)
    assert outcomes == {True, False}


def test_a_missing_flow_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=r"absent\.yaml: No such file"):
        Flow.load(tmp_path / "absent.yaml")


def test_a_knockout_of_an_empty_group_does_nothing_and_is_told() -> None:
    layout = Layout(
        5, {"system": range(1), "video": range(1, 3), "question": range(3, 4), "last": range(4, 5)}
    )
    resolved = Flow.load("video:tail+video:last").bind(2).resolve(layout)
    assert resolved.empty == ("video:tail",)
    with pytest.raises(FlowError, match=r"cuts nothing in this prompt \(video:tail: a group is empty\)"):
        Flow.load("video:tail").bind(2).resolve(layout)
    for text in ("none", "sham"):
        assert Flow.load(text).kept_edges(layout, 2) == (30, 30)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"video": range(1, 4), "last": range(4, 5)}, "'video' must start at token 0"),
        ({"video": range(4), "tail": range(3, 4), "last": range(4, 5)}, "'tail' must start at token 4"),
        ({"video": range(3), "last": range(3, 5)}, "the last prompt token alone"),
        ({"video": range(4), "last": range(4, 5), "stem": range(1, 2)}, "'stem' must lie inside 'question'"),
        ({"vido": range(4), "last": range(4, 5)}, "did you mean 'video'"),
        ({"video": range(3), "last": range(3, 4)}, "end at token 4 of 5"),
    ],
)
def test_layouts_that_cannot_be_are_refused(groups: dict[str, range], message: str) -> None:
    with pytest.raises(FlowError, match=message):
        Layout(5, groups)
    with pytest.raises(FlowError, match="must partition the group 'video'"):
        Layout(3, {"video": range(2), "last": range(2, 3)}, [range(1, 2), range(1)])


def test_knockouts_read_as_they_are_written() -> None:
    assert str(Knockout("video", "question")) == "video:question"
    assert str(Knockout("cross_frame")) == "cross_frame"
    with pytest.raises(FlowError, match="write cross_frame, intra_frame or source:target"):
        Knockout("video")


def test_the_flow_package_imports_no_torch() -> None:
    code = (
        "import sys, lmms_flow; lmms_flow.Flow.load('video:last'); "
        "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Corners that seeded bugs got through


@pytest.mark.parametrize(
    ("depth", "first", "second"), [(5, range(1, 3), range(3, 6)), (1, range(1, 1), range(1, 2))]
)
def test_the_first_half_of_an_odd_depth_is_the_smaller_one(depth: int, first: range, second: range) -> None:
    assert LayerRange("first_half").bind(depth) == first
    assert LayerRange("second_half").bind(depth) == second


def test_ranges_inside_others_are_merged_into_them() -> None:
    assert merge([range(10), range(2, 5), range(4, 7)]) == (range(10),)
    assert merge([range(8, 9), range(3), range(3, 4)]) == (range(4), range(8, 9))


@pytest.mark.parametrize("lost", ["question", "video"])
def test_the_leak_audit_reads_the_masks_and_not_the_pathways_word(lost: str) -> None:
    """A pathway whose cuts are not what its ranges say leaks where they are missing."""
    layout = random_layout(3, empty=False)
    preset = "effective-llava-next-7b-closed"
    bound = Flow.load(preset).bind(32)
    assert not leaks(bound.resolve(layout))
    assert bound.pathway is not None
    ends = ("question:tail", "question:last") if lost == "question" else ("video:question",)
    late = (
        max(bound.pathway.question_last) + 1 if lost == "question" else max(bound.pathway.video_question) + 1
    )
    cuts = list(bound.cuts)
    cuts[late - 1] = frozenset(
        cut for cut in cuts[late - 1] if not str(cut).startswith(ends) and str(cut) != "question:question"
    )
    found = leaks(dataclasses.replace(bound, cuts=tuple(cuts)).resolve(layout))
    assert any(f"(layer {late})" in str(route) for route in found)


@pytest.mark.parametrize(
    ("checkpoint", "share"),
    [
        ("byminji/LLaVA-NeXT-7B-Video-FT", 0.58),
        ("byminji/LLaVA-NeXT-13B-Video-FT", 0.63),
        ("byminji/Mini-InternVL-4B-Video-FT", 0.60),
        ("DAMO-NLP-SG/VideoLLaMA3-7B", 0.42),
    ],
)
def test_the_share_of_the_papers_random_row(checkpoint: str, share: float) -> None:
    flow = Flow.load("random:paper:seed1", checkpoint=checkpoint)
    written = Flow.load(f"random:{share}:seed1")
    assert flow.bind(32).digest == written.bind(32).digest
    with pytest.raises(FlowError, match="the paper gives no share for checkpoint 'flow-tiny'"):
        Flow.load("random:paper", checkpoint="flow-tiny")


def test_blind_cuts_whatever_reads_the_video() -> None:
    for seed in range(20):
        layout = random_layout(seed, empty=False)
        video = [token for part in layout.groups["video"] for token in part]
        rest = [token for token in range(layout.num_tokens) if token not in video]
        kept = keep_masks(Flow.load("blind"), layout, 2).numpy()
        assert not kept[:, rest][:, :, video].any()
        expected = np.tri(layout.num_tokens, dtype=bool)
        expected[np.ix_(rest, video)] = False
        np.testing.assert_array_equal(kept, np.stack([expected] * 2))


def test_a_source_right_behind_its_target_is_refused() -> None:
    groups = {"video": range(4), "question": range(4, 9), "tail": range(9, 11), "last": range(11, 12)}
    own = {"before": range(5, 7), "behind": range(7, 8)}
    layout = Layout(12, groups | own, frames=[range(2), range(2, 4)])
    with pytest.raises(FlowError, match="no token of 'before' ever reads 'behind', which comes later"):
        keep_masks("behind:before", layout, 2)
    assert (np.tri(12, dtype=bool) & ~keep_masks("before:behind", layout, 2).numpy()).sum() == 2 * 2 * 1


@pytest.mark.parametrize(
    ("fewer", "more"),
    [
        ("video:tail", "video:tail+video:answer"),  # the second is cut from generated tokens too
        ("intra_frame", "intra_frame+frame.0:frame.1"),
        ("cross_frame", "cross_frame+frame.1:frame.1"),
        ("video:stem", "video:stem+video:options"),
    ],
)
def test_a_rule_that_cuts_more_gives_another_digest(fewer: str, more: str) -> None:
    assert Flow.load(fewer).bind(3).digest != Flow.load(more).bind(3).digest


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("video:tail", "video:tail+video:tail"),
        ("cross_frame", "cross_frame+frame.0:frame.1"),
        ("video:video", "video:video+intra_frame+cross_frame"),
        ("video:question", "video:question+frame.0:stem"),
        ("text:last", "text:last+stem:last+gap:last"),
    ],
)
def test_a_rule_that_lies_in_another_changes_no_digest(short: str, long: str) -> None:
    assert Flow.load(short).bind(3).digest == Flow.load(long).bind(3).digest


@pytest.mark.parametrize("seed", [242, 273])
def test_tokens_of_a_group_hand_on_what_they_hold_under_a_random_control(seed: int) -> None:
    """On these two the only way to `last` leads from token to token inside a group."""
    layout = random_layout(seed % 40, empty=False)
    flow = Flow.load(f"random:0.8:seed{seed}")
    video = [token for part in layout.groups["video"] for token in part]
    reached = np.isin(np.arange(layout.num_tokens), video)
    for mask in keep_masks(flow, layout, 4).numpy():
        reached |= (mask & reached).any(axis=1)
    assert reached[-1]
    assert flow.leaks(layout, 4)


def test_the_paper_gives_a_share_for_its_own_checkpoints_alone() -> None:
    for checkpoint in (None, "org/model"):
        with pytest.raises(FlowError, match="the paper gives no share for"):
            paper_share(checkpoint)


def test_a_group_of_ones_own_may_reach_to_the_last_token_and_no_further() -> None:
    groups = {"video": range(4), "question": range(4, 9), "last": range(9, 10)}
    assert Layout(10, groups | {"mine": range(8, 10)}).span("mine") == (range(8, 10),)
    assert Layout(10, groups | {"mine": [0, 9]}).span("mine") == (range(1), range(9, 10))
    for beyond in (range(8, 11), [10], [-1, 3]):
        with pytest.raises(FlowError, match="must lie within the prompt's 10 tokens|from 0 to 9"):
            Layout(10, groups | {"mine": beyond})


def test_digests_do_not_change_from_release_to_release() -> None:
    """They stand in journals and records: another one would ask every question again."""
    digests = {
        "none": "99e9c84db2e3",
        "video:last": "368b6e7c5158",
        "cross_frame@2-3+video:question": "dec0f17065b7",
        "effective-flow-tiny": "12a1c1f43dd9",
        "random:0.5:seed3": "0827641f51f7",
    }
    assert {text: Flow.load(text).bind(12).digest for text in digests} == digests


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_the_papers_prompt_at_another_length_has_more_frames_and_the_rest_in_the_question(
    preset: Preset,
) -> None:
    usual = preset.layout()
    assert preset.layout(usual.num_tokens).groups == usual.groups
    per_frame = len(usual.frames[0])
    for longer in (1, 7, per_frame, 3 * per_frame + 2):
        layout = preset.layout(usual.num_tokens + longer)
        assert layout.num_tokens == usual.num_tokens + longer
        assert {len(frame) for frame in layout.frames} == {per_frame}
        assert len(layout.frames) == len(usual.frames) + longer // per_frame
        assert layout.size("question") == usual.size("question") + longer % per_frame
        assert all(layout.size(name) == usual.size(name) for name in ("system", "gap", "tail", "last"))


def test_what_a_notebook_shows_of_a_random_control_and_of_none() -> None:
    assert "edges drawn at random in each layer" in Flow.load("random:0.5").bind(3).html()
    assert "nothing is cut" in Flow.load("none").bind(3).html()


@pytest.mark.parametrize("layers", [0, -3, True, "12", 1.0])
def test_a_flow_file_names_a_number_of_layers(layers: object, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"cut": ["video:last"], "layers": layers}))
    with pytest.raises(FlowError, match="layers: must be the model's number of layers"):
        Flow.load(file)
    file.write_text('{"cut": ["video:last"], "layers": 1}')
    assert Flow.load(file).bind(1)


def test_a_flow_file_of_128_kib_is_read_and_a_larger_one_is_not(tmp_path: Path) -> None:
    file, content = tmp_path / "mine.yaml", 'cut: ["video:last"]\n'
    file.write_text(content + "#" * ((128 << 10) - len(content)))
    assert Flow.load(file).bind(1)
    file.write_text(file.read_text() + "#")
    with pytest.raises(FlowError, match="larger than 128 KiB"):
        Flow.load(file)


def test_only_blind_is_told_how_to_be_joined() -> None:
    with pytest.raises(FlowError, match=r"'blind' must stand alone: .* \(write blind@all to join it\)"):
        Flow.load("blind+video:last")
    for word in ("none", "sham"):
        with pytest.raises(FlowError, match=f"'{word}' must stand alone: it takes no '\\+' and no '@'$"):
            Flow.load(f"{word}+video:last")


@pytest.mark.parametrize("share", [[0.5], {"a": 1}, True, None])
def test_a_random_flow_in_a_file_names_a_share_or_a_preset(share: object, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"random": {"share": share}}))
    with pytest.raises(FlowError, match="neither a share nor a preset"):
        Flow.load(file)


def test_a_group_is_of_ranges_that_leave_no_token_out() -> None:
    groups = {"video": range(4), "question": range(4, 9), "last": range(9, 10)}
    for value in (range(4, 9, 2), [range(4, 9, 2)], "4-9", 4, None):
        with pytest.raises(FlowError, match="must be a range or a list of ranges with step 1"):
            Layout(10, groups | {"stem": value})  # type: ignore[dict-item]
    assert Layout(10, groups | {"stem": [range(4, 5), range(6, 8)]}).span("stem") == (
        range(4, 5),
        range(6, 8),
    )


def test_a_frame_may_be_cut_off_from_itself_and_from_no_later_one() -> None:
    assert Flow.load("frame.1:frame.1").bind(2).cuts == (frozenset({Knockout("frame.1", "frame.1")}),) * 2
    with pytest.raises(FlowError, match="comes later"):
        Flow.load("frame.2:frame.1")
    with pytest.raises(FlowError, match="comes later"):
        Flow.load("frame.-1:frame.-2")
    assert Flow.load("frame.-2:frame.1")  # which comes first hangs on the prompt


def test_a_prompt_without_tokens_of_frames_has_no_frames() -> None:
    assert prompt_layout(system=1, gap=0, frames=3, tokens_per_frame=0, question=5, tail=2).frames == ()
    assert [
        len(frame)
        for frame in prompt_layout(system=1, gap=0, frames=3, tokens_per_frame=2, question=5, tail=2).frames
    ] == [2, 2, 2]


def test_brackets_a_hundred_deep_are_no_flow(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{cut: " + "[" * 500 + "]" * 500 + "}")
    with pytest.raises(FlowError, match="nested"):
        Flow.load(file)
    file.write_text('{cut: ["video:last"], name: "[[[[[[[[[[[[[[[[[[[["}')
    assert Flow.load(file).bind(2).cuts[0] == frozenset({Knockout("video", "last")})


def test_controls_stand_in_a_tables_order() -> None:
    """The pathway between the reference and its controls, what is cut behind them, what sees no video at the end."""
    arms = ("none", "sham", "effective", "random:0.5", "mirrored:effective", "cross_frame", "blind")
    assert [place_of(text) for text in arms] == sorted({place_of(text) for text in arms})


@pytest.mark.parametrize("depth", [50, 51])
def test_a_flow_file_has_fifty_brackets_in_one_another_at_most(depth: int, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("[" * (depth - 1) + "{" + "}" + "]" * (depth - 1))
    with pytest.raises(
        FlowError, match="nested 51 deep" if depth == 51 else "expected keys such as name: and cut:"
    ):
        Flow.load(file)


def test_a_frames_rule_lies_inside_cross_frame_and_not_inside_another_that_is_a_word() -> None:
    frames = Knockout("frame.1", "frame.2")
    assert essential(frozenset({Knockout("cross_frame"), frames})) == ("cross_frame",)
    assert essential(frozenset({Knockout("intra_frame"), frames})) == ("frame.1:frame.2", "intra_frame")


@pytest.mark.parametrize("word", ["single_frame", "reversed", "shuffled:seed1", "frozen"])
def test_orders_of_frames_are_no_flows(word: str) -> None:
    assert control_of(word) is None
    with pytest.raises(FlowError):
        Flow.load(word)


def test_a_route_through_two_groups_is_listed_once() -> None:
    routes = Flow.load("video:last+video:question+video:tail+gap:last+gap:question").leaks(
        PRESETS[0].layout(), 4
    )
    assert [[group for group, _ in route.steps] for route in routes] == [["video", "gap", "tail", "last"]]


def test_an_answer_behind_a_prompt_without_a_tail() -> None:
    """What stood last is the tail then."""
    groups = {"system": range(1), "video": range(1, 3), "question": range(3, 5), "last": range(5, 6)}
    grown = Layout(6, groups, [range(1, 2), range(2, 3)]).with_answer(3)
    assert (grown.num_tokens, grown.span("tail"), grown.span("last")) == (9, (range(5, 8),), (range(8, 9),))
    assert grown.span("answer") == (range(6, 8),)
