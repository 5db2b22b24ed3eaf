"""`lmms-flow doctor`: what of this machine works with this package, and what to do where something will not.

Every finding is tried, not looked up: a clip is written and read, the bundled model is loaded and cut.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lmms_flow import versions
from lmms_flow.errors import one_line

Status = Literal["ok", "note", "fails"]
# What everything of ours works without, and who needs it.
DISPENSABLE = {"decord": "PyAV reads videos instead; some of lmms-eval's own tasks and models import it"}
LITTLE_DISK = 2 << 30  # bytes: what the records and the unpacked clips of a small run may take


@dataclass(frozen=True)
class Finding:
    """One line of the report. `todo` says what to do where it is not "ok"."""

    part: str
    name: str
    status: Status
    detail: str
    todo: str = ""


def examine() -> list[Finding]:
    """All findings, in the order in which they are read. A part that breaks is a finding of its own."""
    findings: list[Finding] = []
    for part, look in PARTS.items():
        try:
            findings += look()
        except (Exception, SystemExit) as error:
            what = one_line(f"{type(error).__name__}: {error}")
            findings.append(Finding(part, "all of it", "fails", what, "tell us, with this report"))
    return findings


def works(findings: list[Finding]) -> bool:
    """Whether nothing fails."""
    return all(finding.status != "fails" for finding in findings)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """The report as plain values."""
    return {"works": works(findings), "findings": [asdict(finding) for finding in findings]}


def _platform() -> Iterator[Finding]:
    yield Finding("platform", "Python", "ok", f"{platform.python_version()} at {sys.executable}")
    cores = os.cpu_count() or 1
    yield Finding("platform", "system", "ok", f"{platform.platform()}, {cores} cores, {platform.machine()}")
    yield Finding("platform", "lmms-flow", "ok", f"{versions.own_version()} in {Path(__file__).parents[1]}")


def _versions() -> Iterator[Finding]:
    """What is installed, against what this package's own metadata declares."""
    table = versions.tried()
    if not table:
        yield Finding(
            "versions", "lmms-flow", "fails", "it is not installed", "pip install -e . in its folder"
        )
    for one in table:
        bounds = one.bounds or "any version"
        if not one.needed:
            yield Finding(
                "versions", one.name, "ok", f"{one.installed or 'not here'}; not needed on this machine"
            )
        elif one.installed is None:
            todo = f'pip install "{one.name}{one.bounds}"'
            status: Status = "fails"
            if one.name in DISPENSABLE:
                status, todo = "note", f"{DISPENSABLE[one.name]}; {todo}"
            yield Finding("versions", one.name, status, f"not installed; tried: {bounds}", todo)
        elif not one.inside:
            todo = (
                f'pip install "{one.name}{one.bounds}", or try it: the other findings tell whether it works'
            )
            yield Finding("versions", one.name, "note", f"{one.installed}; tried: {bounds}", todo)
        else:
            yield Finding("versions", one.name, "ok", f"{one.installed}; tried: {bounds}")


def _device() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            detail = f"{properties.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, CUDA {torch.version.cuda}"
            yield Finding("device", f"cuda:{index}", "ok", detail)
    else:
        built = torch.version.cuda or torch.version.hip
        detail = f"no GPU that torch can use (torch {torch.__version__}, built for {built or 'CPU'})"
        yield Finding(
            "device", "cpu", "note", detail, "models of billions of parameters need one; flow-tiny does not"
        )
    yield Finding("device", "threads", "ok", f"{torch.get_num_threads()} of torch")


def _videos() -> Iterator[Finding]:
    """Each codec that can be written here is written, and read as a run reads it."""
    from lmms_flow.doctor import videos as doctor_videos

    with tempfile.TemporaryDirectory() as folder:
        for reader, version in doctor_videos.readers().items():
            if not version:
                yield Finding("videos", f"reader {reader}", "note", "not installed")
                continue
            tried = doctor_videos.try_codec(doctor_videos.CODECS[0], Path(folder), reader)
            todo = f"reinstall {reader}, or leave out reader={reader}" if tried.problem else ""
            detail = f"{version}; {tried.problem}" if tried.problem else version
            yield Finding("videos", f"reader {reader}", "note" if tried.problem else "ok", detail, todo)
        for codec in doctor_videos.CODECS:
            yield _codec(codec, doctor_videos.try_codec(codec, Path(folder)))


def _codec(codec: Any, tried: Any) -> Finding:
    name = f"codec {codec.name}"
    if tried.reader:
        return Finding(
            "videos", name, "ok", f"a clip in {codec.container} was written, and read by {tried.reader}"
        )
    if not tried.problem:
        return Finding("videos", name, "note", "no clip can be written here, so it was not tried")
    todo = "videos of this codec are errors here: convert them, or reinstall the readers"
    return Finding("videos", name, "fails" if codec.common else "note", tried.problem, todo)


def _host() -> Iterator[Finding]:
    """Whether lmms-eval sees our models and tasks, and is built as we expect."""
    from lmms_flow.harness import host, plugin
    from lmms_flow.harness.ground import MODELS

    broken = list(host.problems())
    for error in broken:
        yield Finding("lmms-eval", "its parts", "fails", str(error).removeprefix("lmms_flow: "), "see there")
    if broken:
        return
    known = host.LIST_MODELS.take()(include_aliases=True)
    missing = [name for name in MODELS if name not in known]
    if missing:
        todo = "reinstall lmms-flow in the environment of lmms-eval: its entry point is not found"
        yield Finding("lmms-eval", "models", "fails", f"it does not see {', '.join(missing)}", todo)
    else:
        yield Finding("lmms-eval", "models", "ok", f"it sees {', '.join(MODELS)}")
    with plugin.tasks_for_all_models():
        tasks = set(host.tasks_of_ours(next(iter(MODELS))))
    from lmms_flow.harness.task_files import index_of

    ours = set(index_of(plugin.tasks_folder()))
    if lost := sorted(ours - tasks):
        todo = "reinstall lmms-flow, or name the folder that `lmms-flow tasks` prints by --include_path"
        yield Finding(
            "lmms-eval", "tasks", "fails", f"it does not see {', '.join(lost[:5])} ({len(lost)})", todo
        )
    else:
        yield Finding("lmms-eval", "tasks", "ok", f"it sees all {len(ours)}, arms and groups included")


def _folders() -> Iterator[Finding]:
    """Where things are kept, whether they can be written, and how much room there is."""
    from huggingface_hub import constants

    from lmms_flow.tasks.shared import clips_folder

    places = {
        "checkpoints": Path(constants.HF_HUB_CACHE),
        "clips of data sets": clips_folder(""),
        "records": Path("lmms_flow_records").absolute(),
        "temporary files": Path(tempfile.gettempdir()),
    }
    for name, place in places.items():
        existing = next(one for one in (place, *place.parents) if one.exists())
        free = shutil.disk_usage(existing).free
        detail = f"{place}, {free / 2**30:.1f} GiB free"
        if not os.access(existing, os.W_OK):
            todo = f"it can't be written: change its rights, or name another ({_HOW[name]})"
            yield Finding("folders", name, "fails", detail, todo)
        elif free < LITTLE_DISK:
            yield Finding("folders", name, "note", detail, f"make room, or name another disk ({_HOW[name]})")
        else:
            yield Finding("folders", name, "ok", detail)
    offline = {name: os.environ[name] for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT") if name in os.environ}
    if offline:
        told = ", ".join(f"{name}={value}" for name, value in offline.items())
        yield Finding("folders", "hub", "note", told, "unset it where something can't be downloaded")


_HOW = {
    "checkpoints": "HF_HUB_CACHE or HF_HOME",
    "clips of data sets": "HF_HOME",
    "records": "records=FOLDER in --model_args",
    "temporary files": "TMPDIR",
}


def _flow_tiny() -> Iterator[Finding]:
    """The bundled model is loaded and every cut of the self-check is tried on it."""
    import torch
    from transformers import AutoModelForImageTextToText

    from lmms_flow.assets import flow_tiny_dir
    from lmms_flow.engine import self_check
    from lmms_flow.runner.weights import load_exactly

    model = load_exactly(AutoModelForImageTextToText, str(flow_tiny_dir()), {"use_safetensors": True}).eval()
    with torch.no_grad():
        for check in self_check(model):
            todo = "" if check.passed else "flows can't be trusted here: install the versions that were tried"
            yield Finding(
                "self-check of flow-tiny", check.name, "ok" if check.passed else "fails", check.detail, todo
            )


PARTS: dict[str, Callable[[], Iterator[Finding]]] = {
    "platform": _platform,
    "versions": _versions,
    "device": _device,
    "videos": _videos,
    "lmms-eval": _host,
    "folders": _folders,
    "self-check of flow-tiny": _flow_tiny,
}
