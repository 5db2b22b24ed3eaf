"""The leak audit: by which routes can what the video says still reach the last token?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, pairwise

from .resolve import ResolvedFlow
from .routes import Arrival, Route, earliest_drawn, kept_of_control, route_of

RELAYS = ("gap", "question", "tail")


def leaks(resolved: ResolvedFlow) -> tuple[Route, ...]:
    """The direct route, if it is open, and the shortest open one through each relaying group; empty if there is none.

    For a pathway, a route is a leak unless it enters the question inside the video:question range and leaves it for
    `last` inside the question:last range (a closed one: question or gap, tail or last). Where one of the two ranges is
    empty no route is meant, so every open one is a leak.
    """
    open_routes: dict[tuple[str, ...], Route] = {}
    drawn = kept_of_control(resolved) if resolved.draws else None
    for relays in _relay_orders():
        for allowed in _leak_conditions(resolved, relays):
            groups = ("video", *relays, "last")
            route = earliest_drawn(resolved, groups, drawn) if drawn else _earliest(resolved, groups, allowed)
            if route is not None:
                open_routes[relays] = route
                break
    return tuple(_shortest_by_relay(open_routes))


def _relay_orders() -> Iterator[tuple[str, ...]]:
    """Every choice of relaying groups, fewest first; information only moves on in the prompt."""
    for count in range(len(RELAYS) + 1):
        yield from combinations(RELAYS, count)


def _shortest_by_relay(routes: dict[tuple[str, ...], Route]) -> Iterator[Route]:
    listed: set[Route] = set()
    for relay in ((), *((name,) for name in RELAYS)):
        matching = [
            route for relays, route in routes.items() if (relays == () if relay == () else relay[0] in relays)
        ]
        if matching and matching[0] not in listed:
            listed.add(matching[0])
            yield matching[0]


Allowed = Callable[[int, int], bool]  # (step, layer): may step number `step` happen in that layer?


def _leak_conditions(resolved: ResolvedFlow, relays: tuple[str, ...]) -> Iterator[Allowed]:
    """The ways in which a route through `relays` counts as a leak, as conditions on the layers of its steps."""
    pathway = resolved.bound.pathway
    groups = ("video", *relays, "last")
    if pathway is None:
        yield lambda step, layer: True
        return
    enters = next((i for i, g in enumerate(groups) if g in pathway.entered()), None)
    leaves = next(
        (i for i, (a, b) in enumerate(pairwise(groups), 1)
         if a in pathway.entered() and b in pathway.reached()),
        None,
    )  # fmt: skip
    if enters is None or leaves is None:
        yield lambda step, layer: True  # it passes the question by
        return
    yield lambda step, layer: step != enters or layer not in pathway.video_question
    yield lambda step, layer: step != leaves or layer not in pathway.question_last


def _earliest(resolved: ResolvedFlow, groups: tuple[str, ...], allowed: Allowed) -> Route | None:
    """The earliest route through exactly these groups, in order; None where it is cut."""
    segments = resolved.segments
    members = {
        g: [s for s, seg in enumerate(segments) if resolved.layout.group_of(seg.start) == g] for g in groups
    }
    arrived: list[dict[int, Arrival]] = [dict.fromkeys(members["video"], (0, None, "video"))]
    arrived += [{} for _ in groups[1:]]
    for layer in range(1, resolved.bound.num_layers + 1):
        new: list[tuple[int, int, Arrival]] = []
        kept = resolved.blocks(layer).kept
        for step in range(1, len(groups)):
            held, before = arrived[step - 1] if allowed(step, layer) else {}, arrived[step]
            held_bits, before_bits = _bits(held), _bits(before)
            for query in members[groups[step]]:
                if query in before:
                    continue
                if read := held_bits & kept[query]:
                    new.append((step, query, (layer, held[_first(read)], groups[step])))
                elif (
                    read := before_bits & kept[query]
                ):  # handed on inside the group, by a token that has it already
                    new.append((step, query, before[_first(read)]))
        for step, query, arrival in new:
            arrived[step][query] = arrival
        if arrived[-1]:
            return route_of(next(iter(arrived[-1].values())))
    return None


def _bits(segments: Iterable[int]) -> int:
    """A set of segments as a bit set."""
    return sum(1 << segment for segment in segments)


def _first(segments: int) -> int:
    """The first of a set of segments."""
    return (segments & -segments).bit_length() - 1
