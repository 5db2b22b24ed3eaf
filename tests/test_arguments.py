"""`--model_args`, and the flags that lmms-eval hands on beside it."""

from __future__ import annotations

from typing import Any

import pytest

from lmms_flow.errors import RunError
from lmms_flow.runner.arguments import as_read, joined, read_arguments

DEFAULT = {
    "batch_size": 1,
    "max_batch_size": None,
    "device": None,
}  # what lmms-eval hands on where nothing is said


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("", DEFAULT, {"batch_size": 1}),
        ("batch_size=2", DEFAULT, {"batch_size": 2}),
        ("batch_size=2", {**DEFAULT, "batch_size": "2"}, {"batch_size": "2"}),
        ("device=cpu", {**DEFAULT, "device": "cpu"}, {"device": "cpu", "batch_size": 1}),
        ("device=cpu", DEFAULT, {"device": "cpu", "batch_size": 1}),
        ("flow=video:last+last:last", None, {"flow": "video:last+last:last"}),
        ({"flow": "none"}, DEFAULT, {"flow": "none", "batch_size": 1}),
    ],
)
def test_arguments_and_flags_are_one(text: Any, flags: Any, expected: dict[str, Any]) -> None:
    assert joined(text, flags) == expected
    read_arguments(joined(text, flags))


@pytest.mark.parametrize(
    ("text", "flags", "says"),
    [
        ("batch_size=2", {**DEFAULT, "batch_size": "3"}, "--batch_size 3 and batch_size=2 in --model_args"),
        ("batch_size=2", {**DEFAULT, "batch_size": "1"}, "--batch_size 1 and batch_size=2 in --model_args"),
        ("device=cpu", {**DEFAULT, "device": "cuda"}, "--device cuda and device=cpu in --model_args"),
        ("flow=none,flow=blind", DEFAULT, "says flow 2 times"),
        ("pretrained", DEFAULT, "write name=value,name=value"),
    ],
)
def test_what_would_be_dropped_is_refused(text: str, flags: Any, says: str) -> None:
    with pytest.raises(RunError, match=says) as error:
        joined(text, flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "digest", ["012345678901", "123456789012", "12345e678901", "99e9c84db2e3", "000000000000"]
)
def test_a_digest_that_looks_like_a_number_is_still_the_digest(digest: str) -> None:
    arguments = read_arguments(joined(f"flow_digest={digest}", DEFAULT))
    assert arguments.flow_digest in (digest, as_read(digest))
