"""What can be known to be wrong before weights are loaded, in one line each: no download is for nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_token

from lmms_flow.errors import FlowError, RunError, nearest
from lmms_flow.flow import PRESETS, Flow
from lmms_flow.flow.presets import is_known_for
from lmms_flow.harness import host
from lmms_flow.harness.arms import leaves

BUNDLED = "flow-tiny"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def before_loading(checkpoint: str, records: str, rank: int = 0) -> None:
    """Checks what a run needs. Raises RunError in one line for the first thing that is missing.

    Args:
        checkpoint: what `pretrained` names.
        records: the folder of the records, or "none".
        rank: of this process; the first one alone tries to write.
    """
    check_checkpoint(checkpoint)
    if rank == 0 and records != "none":
        check_writable(Path(records).expanduser(), "records", "name another folder with records=FOLDER")
    asked = host.evaluation()
    if asked is None:
        return
    output = getattr(asked.get("cli_args"), "output_path", None)
    if rank == 0 and output:
        check_writable(Path(output), "--output_path", "name another folder")
    manager = asked.get("task_manager")
    if manager is not None:
        for name in asked.get("tasks") or ():
            if isinstance(name, str):
                check_tasks(manager, name, checkpoint)


def check_checkpoint(checkpoint: str) -> None:
    """Raises RunError for a folder that is not there or is no checkpoint, and for a name that nothing has."""
    if checkpoint in ("", BUNDLED):  # the wrapper says what it needs
        return
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            inside = sorted(each.parent.name for each in folder.glob("*/config.json"))
            more = f"; did you mean {str(folder / inside[0])!r}?" if inside else ""
            raise RunError(
                f"pretrained={checkpoint}: the folder has no config.json, so it is no checkpoint{more}"
            )
        return
    if folder.is_file():
        raise RunError(f"pretrained={checkpoint}: it is a file; name the checkpoint's folder")
    known = [BUNDLED, *(name for preset in PRESETS for name in preset.checkpoints)]
    if not _REPOSITORY.fullmatch(checkpoint) or checkpoint.startswith("."):
        raise RunError(
            f"pretrained={checkpoint}: there is no such folder, and a repository is written ORGANISATION/NAME"
            f"{nearest(checkpoint, known)}"
        )


def check_writable(folder: Path, what: str, remedy: str) -> None:
    """Raises RunError where nothing can be written into a folder, which need not be there yet."""
    existing = next((one for one in (folder.absolute(), *folder.absolute().parents) if one.exists()), None)
    if existing is None or not existing.is_dir():
        raise RunError(f"{what} {folder}: {existing or folder} is not a folder; {remedy}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"{what} {folder}: {existing} can't be written; change its rights, or {remedy}")


def check_tasks(manager: Any, name: str, checkpoint: str) -> None:
    """Checks a task or group that a run selected. Raises RunError.

    Args:
        manager: lmms-eval's task manager.
        name: of the task or group.
        checkpoint: whose pathway `effective` is.
    """
    index = host.index_of_tasks(manager)
    bases: set[str] = set()
    for task in dict.fromkeys(leaves(index, lambda each: host.config_of(manager, each), name)):
        config: Mapping[str, Any] = {}
        with suppress(Exception):  # lmms-eval says what is wrong with a task that it can't read
            config = host.config_of(manager, task)
        flow = config.get("flow")
        if "class" in config and isinstance(flow, str):
            _check_flow(task, flow, checkpoint)
        base = config.get("base")
        if isinstance(base, str) and base in index and base not in bases:
            bases.add(base)
            with suppress(Exception):
                config = host.config_of(manager, base)
        for line in data_problems(config):
            raise RunError(f"task {task}: {line}")


def _check_flow(task: str, flow: str, checkpoint: str) -> None:
    try:
        Flow.load(flow, checkpoint=checkpoint)
    except FlowError as error:
        if is_known_for(
            re.split("[:+]", flow), checkpoint
        ):  # else the arm is skipped, with that as its reason
            raise RunError(f"task {task}: {error}") from None


def data_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a task's data set from being read, as far as it can be told without the network."""
    path, asked = config.get("dataset_path"), config.get("dataset_kwargs")
    if not isinstance(path, str) or not isinstance(asked, Mapping):
        return
    if asked.get("token") is True and not get_token():
        yield (
            f"its data set {path} is read with a token of the Hugging Face hub, and there is none: set HF_TOKEN, or "
            "run `hf auth login`"
        )
    cache = asked.get("cache_dir")
    if not asked.get("video") or not isinstance(cache, str):
        return
    home = Path(os.getenv("HF_HOME") or "~/.cache/huggingface").expanduser()
    folder = home / cache
    if constants.HF_HUB_OFFLINE and not folder.is_dir():
        yield f"its clips are not in {folder}, and HF_HUB_OFFLINE keeps them from being downloaded: unset it for once"
    elif folder.exists() and not folder.is_dir():
        yield f"its clips belong into {folder}, which is no folder: remove it, or set HF_HOME"
