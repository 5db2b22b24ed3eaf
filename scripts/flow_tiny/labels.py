"""What training asks for besides the letter: what is in each frame, and what has happened up to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scripts.flow_tiny.model import HeadSizes
from scripts.flowbench import specs
from scripts.flowbench.questions import TOPICS, answer_value, values
from scripts.flowbench.render import STEP, progress
from scripts.flowbench.specs import Change, Clip, Motion, Parade, Scenery

IGNORE = -100  # the class of what is not known or not asked
SAMPLED = (1, 5, 9, 13, 17, 20, 24, 28)  # the midpoints of 8 segments of 32 frames

ANSWERS = {value: i for i, value in enumerate(dict.fromkeys(v for topic in TOPICS for v in values(topic)))}
FRAME_FACTS = {"colour": 7, "x": 6, "y": 6, "radius": 6, "mouth": 6, "scene": 7}
STORY = {
    "direction": 4, "action": 4, "first": 6, "last": 6, "count": 4, "opening": 6, "closing": 6,
    "start_x": 6, "start_y": 6, "start_radius": 6, "start_mouth": 6,
}  # fmt: skip
SIZES = HeadSizes(FRAME_FACTS, STORY, len(ANSWERS), len(specs.COLOURS))


def frame_facts(clip: Clip) -> dict[str, list[int]]:
    """Per sampled frame, the class of each fact; class 0 of colour and scene is 'none'."""
    facts = {name: [IGNORE] * len(SAMPLED) for name in FRAME_FACTS}
    facts["colour"] = [0] * len(SAMPLED)
    facts["scene"] = [0] * len(SAMPLED)
    moved = progress(np.array(SAMPLED)).tolist()
    for i, frame in enumerate(SAMPLED):
        block = frame // 4
        if isinstance(clip, Scenery):
            if block not in (3, 4):
                facts["scene"][i] = 1 + specs.SCENES.index(clip.first if block < 3 else clip.last)
            continue
        thing = clip.things[block] if isinstance(clip, Parade) else clip
        if thing is None:
            continue
        facts["colour"][i] = 1 + specs.COLOURS.index(thing.colour)
        x, y, radius = float(thing.x), float(thing.y), float(thing.radius)
        if isinstance(clip, Motion):
            dx, dy = STEP[clip.direction]
            x, y = x + dx * clip.reach * moved[i], y + dy * clip.reach * moved[i]
        if isinstance(clip, Change):
            sign = -1 if clip.action in ("shrink", "close") else 1
            grown = sign * moved[i] if clip.action in ("grow", "shrink") else 0.0
            opened = sign * moved[i] if clip.action in ("open", "close") else 0.0
            radius *= 1 + 0.5 * grown
            facts["mouth"][i] = min(5, int((opened + 1) * 3))
        facts["x"][i], facts["y"][i] = min(5, int(x / 16)), min(5, int(y / 16))
        facts["radius"][i] = min(5, int(radius / 7))
    return facts


def story(clip: Clip) -> dict[str, list[int]]:
    """Per sampled frame, what has happened so far: the answers if the clip ended there."""
    facts = {name: [IGNORE] * len(SAMPLED) for name in STORY}
    if isinstance(clip, Motion | Change):
        topic = "direction" if isinstance(clip, Motion) else "action"
        for name, classes in frame_facts(clip).items():
            if f"start_{name}" in STORY:
                facts[f"start_{name}"] = [classes[0]] * len(SAMPLED)
        facts[topic][1:] = [values(topic).index(answer_value(topic, clip))] * (len(SAMPLED) - 1)
        return facts
    for i in range(len(SAMPLED)):
        if isinstance(clip, Parade):
            order = replace(clip, things=clip.things[: i + 1]).order
            facts["first"][i] = specs.COLOURS.index(order[0])
            facts["last"][i] = specs.COLOURS.index(order[-1])
            facts["count"][i] = len(order) - 1
        else:
            facts["opening"][i] = specs.SCENES.index(clip.first)
            facts["closing"][i] = specs.SCENES.index(clip.first if i < 5 else clip.last)
    return facts


def colours_seen(clip: Clip) -> list[list[int]]:
    """Per sampled frame and colour, whether it has been shown so far."""
    if not isinstance(clip, Parade):
        return [[IGNORE] * len(specs.COLOURS)] * len(SAMPLED)
    seen = [replace(clip, things=clip.things[: i + 1]).order for i in range(len(SAMPLED))]
    return [[int(colour in order) for colour in specs.COLOURS] for order in seen]
