"""Random prompt layouts for property tests, empty groups included."""

from __future__ import annotations

import random

from lmms_flow.flow import Layout


def random_layout(seed: int, *, empty: bool = True, system: bool = True) -> Layout:
    """A small layout with frames of unequal length and a question in parts; groups but `last` are sometimes empty."""
    rng = random.Random(seed)

    def length(most: int) -> int:
        return 0 if empty and rng.random() < 0.2 else rng.randint(1, most)

    frames = [rng.randint(1, 4) for _ in range(rng.randint(1, 5))] if not empty or rng.random() > 0.1 else []
    lengths = {
        "system": rng.randint(1, 4) if system else 0,
        "video": sum(frames),
        "gap": length(3),
        "question": length(8),
        "tail": length(4),
        "last": 1,
    }
    base: dict[str, range] = {}
    end = 0
    for name, size in lengths.items():
        base[name] = range(end, end + size)
        end += size
    cells, start = [], base["video"].start
    for size in frames:
        cells.append(range(start, start + size))
        start += size
    return Layout(end, {**base, **_parts(base["question"], rng)}, cells)


def _parts(question: range, rng: random.Random) -> dict[str, range | list[range]]:
    """Cuts the question into a stem and up to three options, one of them the true one."""
    a, b, c = sorted(rng.choices(range(question.start, question.stop + 1), k=3))
    options = [range(a, b), range(b, c), range(c, question.stop)]
    true = rng.randrange(3)
    return {
        "stem": range(question.start, a),
        "options": range(a, question.stop),
        "true_option": options[true],
        "false_options": [r for i, r in enumerate(options) if i != true],
    }
