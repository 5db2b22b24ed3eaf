"""Requests as lmms-eval makes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

GEN_KWARGS = {"max_new_tokens": 1, "until": ["\n\n"]}
DOCS = {
    task: {"test": [{"id": f"{task}-{i}", "question": f"{task} {i}?"} for i in range(10)]} for task in "xy"
}


def to_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    video = {"type": "video", "url": "clip.mp4", "end_time": 2.0}
    return [
        {"role": "user", "content": [video, {"type": "text", "text": doc["question"]}]},
        {"role": "assistant", "content": "Best option:("},
    ]


def request(doc_id: int, task: str = "x", *, ours: bool = False, **changes: object) -> SimpleNamespace:
    """As lmms-eval makes it for a chat model."""
    fields: dict[str, Any] = {"messages": to_messages, "gen_kwargs": GEN_KWARGS, "metadata": {}, **changes}
    args = ("", fields["messages"], fields["gen_kwargs"], doc_id, task, "test")
    return SimpleNamespace(
        args=args, metadata={**fields["metadata"], **({"lmms_flow": True} if ours else {})}
    )
