"""Strange values and texts, made from a seeded generator: what each reader is fed with."""

from __future__ import annotations

import json
from random import Random
from typing import Any

# Half a surrogate pair, a right-to-left mark, a terminal escape, an HTML tag, a path that climbs, odd digits.
PIECES = (
    *(
        "",
        " ",
        "\n",
        "\t",
        "\0",
        "\x1b[31m",
        "<script>alert(1)</script>",
        "../../etc/passwd",
        "\u202e",
        "\ud800",
    ),
    *(
        "é",
        "٣",
        "²",
        "𝟛",
        "’",
        "—",
        "→",
        "A" * 300,
        "9" * 40,
        "-1",
        "0",
        "1e999",
        "nan",
        "inf",
        "true",
        "null",
        "~",
    ),
)
NUMBERS = (
    0,
    1,
    -1,
    7,
    2**31,
    2**63,
    -(2**63),
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
)


def text(rng: Random, words: tuple[str, ...], most: int = 8) -> str:
    """Words of a language with strange pieces between them; one in fifty is very long."""
    found = "".join(
        rng.choice(PIECES) if rng.random() < 0.15 else rng.choice(words) for _ in range(rng.randint(0, most))
    )
    return found * rng.randint(100, 2000) if rng.random() < 0.01 else found


def value(rng: Random, depth: int = 0) -> Any:
    """What JSON or YAML may hold."""
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice((None, True, False))
    if kind < 5:
        return rng.choice(PIECES)
    if kind < 7:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    return {str(rng.choice(PIECES)): value(rng, depth + 1) for _ in range(rng.randint(0, 4))}


def changed(values: Any, rng: Random) -> Any:
    """A copy in which one place, however deep, holds something else, is gone, or stands twice."""
    if isinstance(values, dict) and values and rng.random() < 0.9:
        key = rng.choice(sorted(values))
        if rng.random() < 0.1:
            return {k: v for k, v in values.items() if k != key}
        return {**values, key: changed(values[key], rng)}
    if isinstance(values, list) and values and rng.random() < 0.6:
        place = rng.randrange(len(values))
        return [*values[:place], changed(values[place], rng), *values[place:][rng.randrange(2) :]]
    return value(rng)


def written(values: Any, rng: Random) -> bytes:
    """As JSON; now and then cut off, with bytes that are no text, nested too deep, or with a number too long."""
    data = json.dumps(values).encode("utf-8", "surrogatepass")
    way = rng.randrange(12)
    if way == 0:
        return data[: rng.randrange(len(data) + 1)]
    if way == 1:
        return flipped(data, rng)
    if way == 2:
        return b'{"format":' + b"[" * rng.choice((50, 100_000)) + b"}"
    if way == 3:
        return data.replace(b"1", b"1" * 5000, 1)
    return data


def flipped(data: bytes, rng: Random, most: int = 8) -> bytes:
    """A few bytes are others, or gone, or doubled."""
    changed_bytes = bytearray(data)
    for _ in range(rng.randint(1, most)):
        if not changed_bytes:
            break
        place = rng.randrange(len(changed_bytes))
        way = rng.randrange(4)
        if way == 0:
            del changed_bytes[place : place + rng.randint(1, 16)]
        elif way == 1:
            changed_bytes[place:place] = rng.randbytes(rng.randint(1, 8))
        else:
            changed_bytes[place] = rng.choice((0, 255, rng.randrange(256)))
    return bytes(changed_bytes)
