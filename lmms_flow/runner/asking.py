"""What one run asks of a loaded model: the host's flags, which questions have a baseline, and each answer's key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from lmms_flow.errors import FlowError, RunError, SampleError, SkippedSampleError
from lmms_flow.flow.controls import NONE
from lmms_flow.flow.trace_settings import TraceSettings
from lmms_flow.harness import host
from lmms_flow.harness.host_cache import cache_in_use
from lmms_flow.harness.host_flags import Flags
from lmms_flow.harness.sample import QuestionId, Sample, question_of, traced, video_key_of
from lmms_flow.inputs.frame_order import FrameOrder
from lmms_flow.inputs.native_chat import pixel_limits
from lmms_flow.records.fields import RunFields
from lmms_flow.records.key import file_identity, package_versions, sample_key
from lmms_flow.versions import installed_version

from .generation import generation_key
from .loaded import LoadedModel

# Arguments that a key knows where they are given.
_WHERE_SET = ("device_map", "load_in_4bit", "load_in_8bit", "peft", "max_frames", "min_pixels", "max_pixels")


@dataclass(frozen=True)
class Asking:
    """One run.

    Args:
        loaded: the model that is asked.
        flags: of the host's command line.
        identity: tells these weights from any others (`checkpoint_identity`), computed when it is first needed.
        with_baseline: the questions that some request asks under full attention, from the model's number of frames.
    """

    loaded: LoadedModel
    flags: Flags
    identity: Callable[[], str]
    with_baseline: frozenset[QuestionId] = field(default_factory=frozenset)

    @staticmethod
    def questions_with_baseline(requests: Sequence[Any], own_flow: str) -> frozenset[QuestionId]:
        """Those that a request asks under full attention; `own_flow` is that of requests which name none."""
        found = set()
        for request in requests:
            _, _, gen_kwargs, doc_id, task, split = host.arguments_of(request)
            metadata = request.metadata or {}
            text, beams = metadata.get("flow") or own_flow, int(gen_kwargs.get("num_beams") or 1)
            if text == NONE.name and not _of_other_frames(metadata) and beams == 1:
                found.add(question_of(task, split, doc_id, metadata))
        return frozenset(found)

    def goes_on_from_baseline(self, sample: Sample) -> bool:
        """Whether an arm goes on from the full attention of its question, by what the run asks for."""
        args = self.loaded.args
        alone = args.engine == "sparse" and args.batch_size == 1
        beams = int(sample.gen_kwargs.get("num_beams") or 1)
        same = not _of_other_frames(sample.metadata) and beams == 1
        return alone and same and sample.question in self.with_baseline

    def trace(self, task: str, metadata: Mapping[str, Any]) -> TraceSettings | None:
        """What is read out beside the answers of a task; None where nothing is.

        `--model_args` say what the task leaves unsaid. Raises RunError where the two contradict each other, or where
        the model has not the layers.
        """
        own = traced(metadata)
        if own is None:
            return None
        try:
            settings = TraceSettings.from_mapping(own).with_arguments(
                own, self.loaded.args.trace, f"task {task}"
            )
            settings.centres(self.loaded.flows.own.bound.num_layers)
            settings.lens_layers_in(self.loaded.flows.own.bound.num_layers)
        except FlowError as error:
            raise RunError(str(error) if task in str(error) else f"task {task}: {error}") from None
        return settings

    def check_traces(self, requests: Sequence[Any]) -> None:
        """Raises RunError where what a trace reads out could not be kept, or its settings mean nothing here."""
        tasks = {
            host.arguments_of(request)[4]: request.metadata
            for request in requests
            if traced(request.metadata)
        }
        for task, metadata in tasks.items():
            self.trace(task, metadata)
            if self.loaded.args.records == "none":
                raise RunError(f"task {task} keeps a trace beside its records: leave out records=none")
            if cache_in_use() is not None:
                raise RunError(
                    f"task {task} keeps a trace beside its records, of which --use_cache knows nothing: leave out "
                    "--use_cache (the records resume a run without it)"
                )

    def key(self, sample: Sample) -> str:
        """The hash of everything that the answer to a sample depends on."""
        loaded = self.loaded
        trace = self.trace(sample.task, sample.metadata)
        clip, order = loaded.clip(sample), loaded.frame_order(sample)
        arm = loaded.flows.of(sample.task, sample.metadata)
        # The last digits of an arm tell whether it went on from full attention's states.
        off_baseline = arm.flow.needs_masks and self.goes_on_from_baseline(sample)
        return sample_key(
            task=sample.task,
            document=sample.doc,
            prompt=loaded.chat.render(sample.messages),
            videos=[] if clip is None else [{**asdict(clip), **file_identity(clip.path), **_ordered(order)}],
            gen_kwargs=generation_key(sample.gen_kwargs, self.flags.seed),
            checkpoint=self.identity(),
            flow_digest=arm.bound.digest,
            runtime=self._runtime() | ({"baseline": True} if off_baseline else {}),
            trace="" if trace is None else trace.to_text(),
        )

    def _runtime(self) -> dict[str, Any]:
        args = self.loaded.args
        given = {name: getattr(args, name) for name in _WHERE_SET if getattr(args, name)}
        return {
            "engine": args.engine,
            "dtype": str(self.loaded.dtype),
            "attention": args.attn_implementation,
            "device": self.loaded.device.type,
            "batch_size": args.batch_size,
            **({"vision": "released"} if args.released_vision else {}),
            **({"arguments": given} if given else {}),  # on their own: `peft` is a package's name as well
            **package_versions(),
        }

    @cached_property
    def _runtime_in_words(self) -> str:
        """What a reader must know to run it again: `float32 on cpu, sdpa attention, lmms-flow 0.1.0, torch 2.15.0`."""
        loaded = self.loaded
        found = package_versions()
        found["lmms-eval"] = installed_version("lmms_eval") or ""
        names = ("lmms-flow", "lmms-eval", "torch", "transformers")
        versions = [f"{name} {found[name]}" for name in names if found[name]]
        numbers = f"{str(loaded.dtype).removeprefix('torch.')} on {loaded.device.type}"
        return ", ".join([numbers, f"{loaded.args.attn_implementation} attention", *versions])

    def fields(self, task: str, metadata: Mapping[str, Any], sample: Sample | None) -> RunFields:
        """What every record of a request says."""
        loaded, args = self.loaded, self.loaded.args
        num_frames, category, pair = int(metadata.get("num_frames") or args.num_frames), "", ""
        video_key = ""
        if sample is not None:
            video_key = video_key_of(sample.doc)
            if sample.is_ours:
                category, pair = (str(sample.doc.get(name) or "") for name in ("family", "pair"))
            with suppress(SampleError):
                clip = loaded.clip(sample)
                num_frames = clip.num_frames if clip else 0
        fields: RunFields = {
            "engine": args.engine,
            "checkpoint": loaded.checkpoint,
            "base": str(metadata.get("base") or task),
            "category": category,
            "pair": pair,
            "video_key": video_key,
            "protocol": str(metadata.get("protocol") or "stock"),
            "num_frames": num_frames,
            "frame_order": _order_of(metadata, args.frame_order),
            "vision": "released" if args.released_vision else "",
            "frame_size": pixel_limits(loaded.chat),
            "num_layers": loaded.flows.own.bound.num_layers,
            "runtime": self._runtime_in_words,
        }
        trace = self.trace(task, metadata)
        if trace is not None:
            fields["trace"] = trace.to_text()
        try:
            arm = loaded.flows.of(task, metadata)
        except SkippedSampleError:
            return fields | {"flow": str(metadata["flow"])}
        return fields | {
            "flow": arm.flow.text,
            "flow_name": arm.flow.name,
            "flow_digest": arm.bound.digest,
        }


def _of_other_frames(metadata: Mapping[str, Any]) -> bool:
    """Whether a task reads another number of frames than the model does by itself, or shows them in another order."""
    return bool(metadata.get("num_frames") or metadata.get("frame_order"))


def _ordered(order: FrameOrder | None) -> dict[str, str]:
    """What the key of an answer says of an order; nothing of the one in which the video was filmed."""
    return {} if order is None else {"frame_order": str(order)}


def _order_of(metadata: Mapping[str, Any], own: str) -> str:
    """What a record says of the order of its frames; `own` is the model's."""
    text = str(metadata.get("frame_order") or own)
    return str(FrameOrder.parse(text)) if text else ""
