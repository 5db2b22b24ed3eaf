"""What must hold for every flow on every prompt, against meanings written out token by token.

A hundred prompts and flows each; `--hypothesis-profile=long --timeout=0` tries 10,000.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from lmms_flow.engine import RowPlan, keep_masks
from lmms_flow.flow import Flow, FlowError
from lmms_flow.flow.leaks import RELAYS
from tests.support.random_flows import (
    PROMPTS,
    Drawn,
    Pairs,
    Prompt,
    Term,
    pathways,
    prompt,
    random_flow,
    terms,
)

DEPTHS = st.integers(1, 5)


@dataclass(frozen=True)
class Case:
    """A prompt and a flow of known meaning."""

    shown: Prompt
    depth: int
    drawn: Drawn | tuple[Term, ...] = field(repr=True)

    @property
    def flow(self) -> Flow:
        if isinstance(self.drawn, Drawn):
            return self.drawn.flow
        return Flow.load("+".join(term.text for term in self.drawn))

    @cached_property
    def cut(self) -> list[Pairs]:
        """What is cut in each layer."""
        layers = range(1, self.depth + 1)
        if isinstance(self.drawn, Drawn):
            return [self.drawn.cut(self.shown, layer) for layer in layers]
        pairs = [(term, term.pairs(self.shown)) for term in self.drawn]
        none = np.zeros_like(self.shown.triangle)
        return [np.any([none, *(p for t, p in pairs if t.cuts_in(layer))], axis=0) for layer in layers]

    @cached_property
    def keep(self) -> Pairs:
        """What is kept, bool [layer, query, key]."""
        return np.stack([self.shown.triangle & ~cut for cut in self.cut])

    @property
    def cuts_anything(self) -> bool:
        return any(cut.any() for cut in self.cut)

    @property
    def is_refused(self) -> bool:
        """Whether the flow can't mean anything on this prompt."""
        bare = not self.keep.any(axis=2).all()
        if isinstance(self.drawn, Drawn):
            return bare or not self.cuts_anything
        # Generated tokens take the cuts whose target is `answer`, also where the prompt has none of it yet.
        of_answers = any(
            t.target == "answer" and self.shown.of(t.source) and self._applies(t) for t in self.drawn
        )
        return bare or not (self.cuts_anything or of_answers) or self.is_impossible

    @property
    def is_impossible(self) -> bool:
        return not isinstance(self.drawn, Drawn) and any(map(self._is_impossible, self.drawn))

    def _applies(self, term: Term) -> bool:
        return any(map(term.cuts_in, range(1, self.depth + 1)))

    def _is_impossible(self, term: Term) -> bool:
        """A rule that names a frame that is not there, or whose source stands behind its whole target."""
        if term.target is None or not self._applies(term):
            return False
        keys, queries = self.shown.of(term.source), self.shown.of(term.target)
        if keys is None or queries is None:
            return True
        return bool(keys and queries) and min(keys) > max(queries)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shown, depth = draw(PROMPTS), draw(DEPTHS)
    chosen: Drawn | tuple[Term, ...]
    if draw(st.booleans()):
        chosen = draw(pathways(depth))
    else:
        chosen = tuple(draw(st.lists(terms(depth), min_size=1, max_size=5)))
    return Case(shown, depth, chosen)


def load(case: Case) -> Flow:
    """The case's flow; cases that hold a rule which no prompt allows are left out."""
    try:
        return case.flow
    except FlowError:
        assume(False)
        raise


@given(cases())
def test_masks_and_closed_form_are_what_the_words_mean_or_the_flow_is_refused(case: Case) -> None:
    flow = load(case)
    try:
        resolved = flow.bind(case.depth).resolve(case.shown.layout)
    except FlowError as error:
        refused = str(error)
    else:
        refused = ""
    assert bool(refused) == case.is_refused, refused
    if refused:
        assert "\n" not in refused
        return
    assert np.array_equal(keep_masks(flow, case.shown.layout, case.depth).numpy(), case.keep)
    assert resolved.kept_by_layer() == tuple(case.keep.sum(axis=(1, 2)))
    assert resolved.kept_edges() == (int(case.keep.sum()), case.depth * int(case.shown.triangle.sum()))


@given(PROMPTS, DEPTHS, st.floats(0.01, 0.99), st.integers(0, 99))
def test_random_controls_cut_the_share_that_is_counted(
    shown: Prompt, depth: int, share: float, seed: int
) -> None:
    flow = random_flow(share, seed)
    try:
        resolved = flow.bind(depth).resolve(shown.layout)
    except FlowError:
        return
    keep = keep_masks(flow, shown.layout, depth).numpy()
    edges = int(shown.triangle.sum())
    assert all(edges - mask.sum() == int(edges * share) for mask in keep)
    assert resolved.kept_edges() == (keep.sum(), edges * depth)
    assert not (keep & ~shown.triangle).any()
    system = len(shown.tokens["system"])
    assert all(np.array_equal(mask[:, :system], shown.triangle[:, :system]) for mask in keep)


@given(
    DEPTHS.flatmap(lambda depth: st.tuples(st.just(depth), st.lists(terms(depth), min_size=1, max_size=5)))
)
def test_what_is_printed_reads_as_what_was_written(given_terms: tuple[int, list[Term]]) -> None:
    depth, written = given_terms
    try:
        flow = Flow.load("+".join(term.text for term in written))
        bound = flow.bind(depth)
    except FlowError:
        return
    printed = "+".join(map(str, flow.rules))
    again = Flow.load(printed)
    assert again.rules == flow.rules
    assert "+".join(map(str, again.rules)) == printed
    assert Flow.load("+".join(bound.rules())).bind(depth).cuts == bound.cuts
    assert again.bind(depth).digest == bound.digest


@given(cases(), st.integers(0, 2))
def test_the_plan_computes_every_live_row_and_no_dead_one(case: Case, undropped: int) -> None:
    flow = load(case)
    assume(not case.is_refused)
    plan = RowPlan(flow.bind(case.depth).resolve(case.shown.layout), undropped=undropped)
    live = {case.shown.num_tokens - 1}
    for layer in range(case.depth, 0, -1):
        live |= {int(k) for q in live for k in np.flatnonzero(case.keep[layer - 1][q])}
        if layer <= undropped:
            live = set(range(case.shown.num_tokens))
        assert plan.rows(layer) == tuple(sorted(live))
        edges = case.keep[layer - 1][np.ix_(sorted(live), sorted(live))].sum()
        assert plan.num_edges(layer) == edges


Visited = frozenset[str]  # relaying groups on the way
Way = tuple[Visited, bool | None, bool | None]  # and whether it entered and left the question where it may


def ways_to_last(case: Case, keep: Pairs) -> dict[Way, int]:
    """Every kind of way by which the video reaches `last`, walked token by token, and the first layer that has it."""
    shown, drawn = case.shown, case.drawn
    groups = [shown.base_group(token) for token in range(shown.num_tokens)]
    closed = isinstance(drawn, Drawn) and drawn.closed
    asks = {"question", "gap"} if closed else {"question"}
    ends = {"last", "tail"} if closed else {"last"}
    held: list[set[Way]] = [{(frozenset(), None, None)} if group == "video" else set() for group in groups]
    found: dict[Way, int] = {}
    for layer in range(1, len(keep) + 1):
        after = [set(ways) for ways in held]
        for q, k in np.argwhere(keep[layer - 1]).tolist():
            if groups[q] == groups[k]:
                after[q] |= held[k]
                continue
            for visited, entered, left in held[k]:
                if isinstance(drawn, Drawn):
                    if entered is None and groups[q] in asks:
                        entered = layer in drawn.layers(1)
                    if left is None and groups[k] in asks and groups[q] in ends:
                        left = layer in drawn.layers(2)
                after[q].add((visited | ({groups[q]} & set(RELAYS)), entered, left))
        held = after
        for way in held[-1]:
            found.setdefault(way, layer)
    return found


@given(cases())
def test_the_leak_audit_is_reachability(case: Case) -> None:
    flow = load(case)
    assume(not case.is_refused)
    leaking = {
        way: layer
        for way, layer in ways_to_last(case, case.keep).items()
        if not (isinstance(case.drawn, Drawn) and way[1] and way[2])
    }
    listed = {
        frozenset(group for group, _ in route.steps) & frozenset(RELAYS): route.steps[-1][1]
        for route in flow.leaks(case.shown.layout, case.depth)
    }
    open_ = {visited for visited, _, _ in leaking}
    assert (frozenset() in listed) == (frozenset() in open_)
    for relay in RELAYS:
        through = [visited for visited in open_ if relay in visited]
        assert bool(through) == any(relay in visited for visited in listed)
        if through:  # the shortest of them
            fewest = min(map(len, through))
            assert any(relay in visited and len(visited) == fewest for visited in listed)
    for visited, layer in listed.items():
        assert layer == min(first for (way, _, _), first in leaking.items() if way == visited)


@given(PROMPTS, DEPTHS, st.floats(0.3, 0.99), st.integers(0, 99))
def test_the_leak_audit_of_a_random_control_is_reachability(
    shown: Prompt, depth: int, share: float, seed: int
) -> None:
    flow = random_flow(share, seed)
    try:
        routes = flow.leaks(shown.layout, depth)
    except FlowError:
        return
    reached = np.isin(np.arange(shown.num_tokens), list(shown.tokens["video"]))
    for mask in keep_masks(flow, shown.layout, depth).numpy():
        reached = reached | (mask & reached).any(axis=1)
    assert bool(routes) == bool(reached[-1])


# Prompts on which no two groups, parts or frames are told apart by luck: every token of the question is of another mix
# of parts, in two orders, and the number of frames differs.
OF_NONE = [False] * 6
TELLING: tuple[Prompt, ...] = (
    prompt(
        2, [2, 3, 2, 2], 2, ["stem", "", "true_option", "false_options", "options", "stem"], 3, 1, OF_NONE
    ),
    prompt(
        *(2, [2, 2, 3, 2, 2], 2),
        ["false_options", "true_option", "", "options", "stem", "true_option", "stem", ""],
        *(3, 1, [True, *OF_NONE]),
    ),
    prompt(
        *(2, [2, 2, 2, 2, 2, 2, 2], 2),
        ["options", "stem", "false_options", "true_option", "false_options"],
        *(3, 1, [False, True, *OF_NONE]),
    ),
)
# The answer's words are the end of the tail as a rule, and may stand anywhere in it.
INSIDE = TELLING[0].tokens | {"answer": frozenset(sorted(TELLING[0].tokens["tail"])[1:2])}
TELLING += (replace(TELLING[0], tokens=INSIDE),)
PARTS_OF = {
    "text": ("gap", "question", "tail", "last"),
    "video": ("frame.0", "frame.1", "frame.last"),
    "question": ("stem", "options", "true_option", "false_options"),
    "tail": ("answer",),
}


def masks(drawn: tuple[Term, ...], depth: int) -> tuple[object, ...]:
    """What a flow keeps of the telling prompts, and what it cuts from generated tokens."""
    kept = [Case(shown, depth, drawn).keep.tobytes() for shown in TELLING]
    answers = [
        [
            frozenset().union(*(shown.of(t.source) or () for t in drawn if t.target == "answer" and t.cuts_in(layer)))
            for layer in range(1, depth + 1)
        ]
        for shown in TELLING
    ]  # fmt: skip
    return (*kept, *map(tuple, answers))


@st.composite
def rewritten(draw: st.DrawFn, drawn: tuple[Term, ...]) -> tuple[Term, ...]:
    """The same rules in other words, or nearly: a group by its parts, a part that is there already, a rule less."""
    found: list[Term] = []
    for term in drawn:
        source, target = PARTS_OF.get(term.source), PARTS_OF.get(term.target or "")
        way = draw(st.sampled_from(("same", "source", "target", "both", "without")))
        if way in ("source", "both") and source:
            found += [Term(each, term.target, term.layers) for each in source]
        if way in ("target", "both") and target:
            found += [Term(term.source, each, term.layers) for each in target]
        if way in ("same", "both") or not (source or target):
            found.append(term)
        if way == "both" and term.source == term.target == "video":
            found += [Term(name, None, term.layers) for name in ("cross_frame", "intra_frame")]
        if way == "both" and term.source == "cross_frame":
            found.append(Term("frame.0", "frame.2", term.layers))
    return tuple(t for t in draw(st.permutations(found)) if is_rule(t)) or drawn


def is_rule(term: Term) -> bool:
    try:
        Flow.load(term.text)
    except FlowError:
        return False
    return True


WIDE = ("video", "question", "text", "tail", "last", "frame.0", "stem", "answer", "gap")


@st.composite
def pairs_of_flows(draw: st.DrawFn) -> tuple[int, tuple[Term, ...], tuple[Term, ...]]:
    depth = draw(st.integers(1, 3))
    one = tuple(filter(is_rule, draw(st.lists(terms(depth, WIDE), min_size=1, max_size=3))))
    assume(one)
    return depth, one, draw(rewritten(one))


@given(pairs_of_flows())
def test_digests_are_equal_exactly_when_masks_are(
    drawn: tuple[int, tuple[Term, ...], tuple[Term, ...]],
) -> None:
    depth, *flows = drawn
    try:
        digests = {Flow.load("+".join(t.text for t in each)).bind(depth).digest for each in flows}
    except FlowError:  # a half of a model of one layer
        return
    assume(not any(Case(shown, depth, each).is_impossible for shown in TELLING for each in flows))
    alike = masks(flows[0], depth) == masks(flows[1], depth)
    if any(map(is_between_frames, flows[0] + flows[1])):
        assert alike or len(digests) == 2
    else:
        assert alike == (len(digests) == 1)


def is_between_frames(term: Term) -> bool:
    """Such rules can be the same for reasons of geometry: `video:frame.0` is `frame.0:frame.0`."""
    both = (term.source, term.target or "")
    return any(name.startswith("frame.") for name in both) and all(
        n.startswith(("frame.", "video")) for n in both
    )
