"""A document that can't be asked about or scored is one failed sample, not the loss of its task.

lmms-eval ends a task, with exit status 0, where the task's own code raises over one of its documents.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

from lmms_flow.errors import one_line
from lmms_flow.harness import loop
from lmms_flow.harness.sample import describe

_now = threading.local()  # documents are scored in threads
_KINDS: dict[type, type] = {}  # of a task -> the same that goes on after a broken document


class BrokenDocuments:
    """To be put before the class of a task."""

    name = ""

    def doc_to_messages(self, doc: Any, **rounds: Any) -> Any:
        """The task's messages. What it raises here is the sample's error."""
        with _while("asking"):
            return super().doc_to_messages(doc, **rounds)  # type: ignore[misc]

    def fewshot_context(self, doc: Any, *args: Any, **kwargs: Any) -> Any:
        """The task's; nothing for a broken document while lmms-eval lists its requests. Asking for it fails later."""
        try:
            return super().fewshot_context(doc, *args, **kwargs)  # type: ignore[misc]
        except Exception:
            if getattr(_now, "asking", False):
                raise
            return ""

    def doc_to_target(self, doc: Any) -> Any:
        """The task's; nothing for a broken document where lmms-eval writes its log. Scoring one fails."""
        try:
            return super().doc_to_target(doc)  # type: ignore[misc]
        except Exception:
            if getattr(_now, "scoring", False):
                raise
            return ""

    def process_results(self, doc: Any, results: Any, **more: Any) -> Any:
        """The task's scores; none for a document that can't be scored."""
        scores, _ = self.scores(doc, results, None, **more)
        return scores

    def scores(self, doc: Any, results: Any, doc_id: int | None, **more: Any) -> tuple[dict[str, Any], str]:
        """The task's scores, and why there are none. Raises RunError where a failed sample ends the run."""
        try:
            with _while("scoring"):
                return super().process_results(doc, results, **more), ""  # type: ignore[misc]
        except Exception as error:
            place = self._place(doc) if doc_id is None else doc_id
            told = "a document" if place is None else f"document {place}"
            reason = one_line(f"{told} can't be scored ({describe(error)})")
            loop.fail(self.name, place, reason)
            return {}, reason

    def _place(self, doc: Any) -> int | None:
        """lmms-eval tells what it scores, but not which document this is."""
        with contextlib.suppress(Exception):
            documents = enumerate(self.eval_docs_no_media)  # type: ignore[attr-defined]
            return next(place for place, one in documents if one == doc)
        return None


def fail_one_by_one(tasks: MutableMapping[str, Any]) -> None:
    """Puts tasks that go on after a broken document in the place of those in lmms-eval's nested dictionary."""
    for name, found in tasks.items():
        if isinstance(found, MutableMapping):
            fail_one_by_one(found)
        elif isinstance(found, tuple):
            tasks[name] = (found[0], _tolerant(str(name), found[1]))
        else:
            tasks[name] = _tolerant(str(name), found)


def _tolerant(name: str, task: Any) -> Any:
    """The same task, all that it holds shared, as one of a class of its own."""
    kind = type(task)
    if task is None or isinstance(task, BrokenDocuments):
        return task
    if kind not in _KINDS:
        _KINDS[kind] = type(kind.__name__, (BrokenDocuments, kind), {"__module__": kind.__module__})
    made: Any = object.__new__(_KINDS[kind])
    made.__dict__ = task.__dict__
    made.name = name
    return made


@contextlib.contextmanager
def _while(what: str) -> Iterator[None]:
    before = getattr(_now, what, False)
    setattr(_now, what, True)
    try:
        yield
    finally:
        setattr(_now, what, before)
