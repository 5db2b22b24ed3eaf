"""lmms-eval's own response cache (`--use_cache`), and what may not be run under it.

Its keys know the literal `--model_args` and a task's configuration, and it answers without asking the model. So a model
of ours tells it the keys of its records, which know the weights, the videos and the rest. What would still be wrong is
refused: a flow file whose path says nothing, and answers that failed.
"""

from __future__ import annotations

from lmms_flow.errors import RunError
from lmms_flow.flow.files import is_file
from lmms_flow.harness import host


def cache_in_use() -> str | None:
    """The folder of the cache of the evaluation that is being set up; None where there is none."""
    asked = host.evaluation()
    return None if asked is None else asked["use_cache"]


def refuse_what_it_would_hide(flow: str, digest: str, given_digest: str, on_error: str) -> None:
    """Raises RunError where the cache could serve an answer that the model would not give any more."""
    if cache_in_use() is None:
        return
    host.teach_cache("cache_keys")
    if is_file(flow) and not given_digest:
        raise RunError(
            f"--use_cache knows the flow only by the path {flow}, so an edited file would get old answers: add "
            f"flow_digest={digest} to --model_args, or leave out --use_cache (the records resume a run without it)"
        )
    if on_error == "record":
        raise RunError(
            "--use_cache would keep the empty answers of samples that failed and serve them again: leave out "
            "--use_cache (the records resume a run without it) or on_error=record"
        )


def refuse_missing_clips(count: int) -> None:
    """Raises RunError where the cache would keep the empty answers to questions whose clips may come later."""
    if count and cache_in_use() is not None:
        raise RunError(
            f"{count} clips are missing, and --use_cache would keep their empty answers: leave out --use_cache "
            "(the records resume a run without it), or fetch the clips first"
        )
