"""The base of our models: lmms-eval's requests in, answers and records out, under a flow.

A wrapper of a new model family names its default checkpoint. Where transformers' automatic classes don't load it, it
overrides `load`; where prompts or frames work otherwise, it returns a `VideoChat` of its own. See
docs/adding-a-model.md.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import uuid
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar, NoReturn

import torch
from accelerate import Accelerator
from loguru import logger
from transformers import AutoModelForImageTextToText, AutoProcessor

from lmms_flow.engine import decoder_layers, find_decoder, require_self_check
from lmms_flow.flow import Flow, FlowError
from lmms_flow.harness import host
from lmms_flow.harness.broken_documents import fail_one_by_one
from lmms_flow.harness.errors import RunError, SampleError, SkippedSampleError
from lmms_flow.harness.generation import check_generation, generation_key
from lmms_flow.harness.host_cache import refuse_missing_clips, refuse_what_it_would_hide
from lmms_flow.harness.host_calls import before_tasks
from lmms_flow.harness.host_flags import read_flags
from lmms_flow.harness.journal import Journal
from lmms_flow.harness.loop import RequestLoop
from lmms_flow.harness.sample import QuestionId, Sample, describe, question_of, unpack
from lmms_flow.harness.sample_key import digest, file_identity, package_versions, sample_key
from lmms_flow.inputs.read_ahead import Clip, ReadAhead

from .adapters import find_adapter
from .answering import Answerer
from .arguments import ModelArguments, as_read, joined, read_arguments
from .chat import VideoChat
from .flows import Flows
from .identity import checkpoint_identity

SMALL_MODEL = 50_000_000  # parameters


_HostModel: Any = host.MODEL_BASE.take()


class FlowModel(_HostModel):  # type: ignore[misc]
    """A VideoLLM of transformers that runs under a flow."""

    is_simple = False
    runs_flows = True  # tasks that carry a flow ask for this
    default_checkpoint: ClassVar[str] = ""
    sampling: ClassVar[str] = "midpoints"  # which frames of a video, where the task does not say
    has_released_vision: ClassVar[bool] = False  # whether the argument released_vision means something here
    _is_checked = False
    _said_at_the_end = ""
    _identity: str | None = None
    _identity_holds_until = 0.0

    def __init__(self, **model_args: Any) -> None:
        super().__init__()
        self.args = read_arguments(model_args)
        self.checkpoint = self.args.pretrained or self.default_checkpoint
        self.asked = read_flags()
        before_tasks(_begin_evaluation)
        accelerator = Accelerator()
        self.accelerator = accelerator
        self._rank, self._world_size = accelerator.local_process_index, accelerator.num_processes
        try:
            self.flow = Flow.load(self.args.flow, checkpoint=self.checkpoint)
            self._place(accelerator)
            if self.args.released_vision and not self.has_released_vision:
                raise FlowError("released_vision=true is for videollama3_flow alone: leave it out")
            self.chat = self._load_with_adapter(self.checkpoint)
            self.model = self.chat.model.eval()
            self._limit_threads()
            num_layers = len(decoder_layers(find_decoder(self.model)))
            self.flows = Flows(self.flow, self.checkpoint, num_layers)
            self._check_digest(self.flows.own.bound.digest)
            self._check()
        except Exception as error:  # the host would end with exit status 0
            expected = isinstance(error, (FlowError, OSError, ValueError, ImportError))
            if not expected:
                traceback.print_exception(error)
            what = str(error) if expected else describe(error)
            raise RunError(f"{type(self).__name__}, {self.checkpoint}: {what}") from error
        logger.info(
            f"flow {self.flow.text!r} ({self.flow.name}), digest {self.flows.own.bound.digest}, "
            f"engine {self.args.engine}"
        )

    def load(self, source: str) -> VideoChat:
        """Loads a repository id or folder. As it stands here: by transformers' automatic classes."""
        processor = AutoProcessor.from_pretrained(source, **self.hub_arguments)
        model = AutoModelForImageTextToText.from_pretrained(source, **self.loading_arguments)
        return VideoChat(model, processor)

    def _load_with_adapter(self, source: str) -> VideoChat:
        """The checkpoint; where it is an adapter alone, its base with the adapter in it."""
        adapter = find_adapter(source, self.args.revision)
        if adapter is None:
            return self.load(source)
        try:
            chat = self.load(adapter.base or source)
        except RuntimeError as error:  # transformers applies an adapter beside its base while loading
            raise adapter.misfit(error) from None
        adapter.apply(chat.model)
        base = adapter.base or "the weights beside it"
        self._said_at_the_end = f"lmms_flow: the adapter {source} is applied to its base, {base}"
        logger.info(self._said_at_the_end)
        return chat

    # What lmms-eval calls

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str | Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> FlowModel:
        """`batch_size` and `device` may stand in `--model_args` as well as in flags of their own."""
        return cls(**joined(arg_string, additional_config))

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """Answers every request, in the order of the requests."""
        self.asked = read_flags()
        check_generation(requests, self.asked.gen_kwargs)
        self._check(requests)
        self._look_at_model(len(requests))
        journal = None
        if self.args.records != "none":
            journal = Journal(self.args.records, rank=self._rank)
            logger.info(f"records of this run are in {journal.folder}")
        with ReadAhead(timeout=self.args.video_timeout) as reader, journal or nullcontext():
            with_baseline = self._with_baseline(requests)
            answerer = Answerer(self, reader, with_baseline)
            loop = RequestLoop(
                key=lambda sample: self._key(sample, with_baseline),
                answer=answerer.answer,
                journal=journal,
                batch_size=self.args.batch_size,
                on_error=self.args.on_error,  # type: ignore[arg-type]
                rank=self._rank,
                fields=self._fields,
                ahead=answerer.announce,
            )
            answers = list(loop.run(requests, self.task_dict))
        refuse_missing_clips(loop.missing_clips)
        if self._said_at_the_end and self._rank == 0:  # beside the scores, also where the log is not shown
            print(self._said_at_the_end, file=sys.stderr)
        return answers

    def _with_baseline(self, requests: list[Any]) -> frozenset[QuestionId]:
        """The questions that some request asks under full attention, from the model's number of frames."""
        found = set()
        for request in requests:
            _, _, gen_kwargs, doc_id, task, split = host.arguments_of(request)
            metadata = request.metadata or {}
            text = metadata.get("flow") or self.flow.text
            if (
                text == "none"
                and not metadata.get("num_frames")
                and int(gen_kwargs.get("num_beams") or 1) == 1
            ):
                found.add(question_of(task, split, doc_id, metadata))
        return frozenset(found)

    def goes_on_from_baseline(self, sample: Sample, with_baseline: frozenset[QuestionId]) -> bool:
        """Whether an arm goes on from the full attention of its question, by what the run asks for."""
        alone = self.args.engine == "sparse" and self.args.batch_size == 1
        beams = int(sample.gen_kwargs.get("num_beams") or 1)
        same = not sample.metadata.get("num_frames") and beams == 1
        return alone and same and sample.question in with_baseline

    def _check(self, requests: Sequence[Any] = ()) -> None:
        """Shows once, before the first flow is run, that cuts reach this model."""
        texts = {self.flow.text, *((request.metadata or {}).get("flow") for request in requests)}
        if self._is_checked or texts <= {"none", None}:
            return
        try:
            with torch.no_grad():
                require_self_check(self.model, engine=self.args.engine)
        except FlowError as error:
            raise RunError(f"{type(self).__name__}, {self.checkpoint}: {error}") from error
        self._is_checked = True

    def loglikelihood(self, requests: list[Any]) -> NoReturn:
        self._refuse("loglikelihood")

    def generate_until_multi_round(self, requests: list[Any]) -> NoReturn:
        self._refuse("multi-round generation")

    def generate_visual_cot(self, requests: list[Any]) -> NoReturn:
        self._refuse("pictures that the model draws (visual_cot)")

    def _refuse(self, what: str) -> NoReturn:
        raise RunError(f"{type(self).__name__} answers generate_until tasks; this task asks for {what}")

    @property
    def batch_size(self) -> int:
        return self.args.batch_size

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def rank(self) -> int:
        return int(self._rank)

    @property
    def world_size(self) -> int:
        return int(self._world_size)

    # Loading

    def _place(self, accelerator: Accelerator) -> None:
        if self.args.device:
            try:
                self._device = torch.device(self.args.device)
            except RuntimeError:
                raise FlowError(f"device={self.args.device}: write cuda, cuda:1 or cpu") from None
        else:
            self._device = accelerator.device
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise FlowError(f"device={self.args.device}: this machine has no GPU that torch can use")

    def _check_digest(self, digest: str) -> None:
        if self.args.flow_digest not in ("", digest, as_read(digest)):
            raise FlowError(
                f"flow {self.flow.text!r} has the digest {digest}, and flow_digest={self.args.flow_digest} was given: "
                "the flow is not the one that was meant"
            )
        refuse_what_it_would_hide(self.flow.text, digest, self.args.flow_digest, self.args.on_error)

    def _limit_threads(self) -> None:
        """A small model on a CPU runs on one thread: threads that wait for one another cost more than they save.

        On a busy machine two threads made flow-tiny more than ten times slower. OMP_NUM_THREADS overrides it.
        """
        small = sum(weight.numel() for weight in self.model.parameters()) < SMALL_MODEL
        if self._device.type == "cpu" and small and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)

    @property
    def dtype(self) -> torch.dtype:
        if self.args.dtype != "auto":
            return getattr(torch, self.args.dtype)  # type: ignore[no-any-return]
        return torch.float32 if self._device.type == "cpu" else torch.bfloat16

    @property
    def hub_arguments(self) -> dict[str, Any]:
        """For the `from_pretrained` of processors and tokenizers: revision, and whether the repository's code may run.

        The model itself is always one of transformers' own classes.
        """
        return {"revision": self.args.revision, "trust_remote_code": self.args.trust_remote_code}

    @property
    def loading_arguments(self) -> dict[str, Any]:
        """For the model's `from_pretrained`."""
        return {
            "revision": self.args.revision,
            "dtype": self.dtype,
            "attn_implementation": self.args.attn_implementation,
            "device_map": self.args.device_map or {"": str(self._device)},
            "use_safetensors": True,
        }

    # One sample

    def clip(self, sample: Sample) -> Clip | None:
        """Which frames of which file the sample is about; None for a question without a video."""
        media = [p for m in sample.messages for p in m["content"] if p.get("type") not in ("text", None)]
        videos = sample.videos()
        if len(media) != len(videos) or len(videos) > 1:
            kinds = ", ".join(sorted({str(part["type"]) for part in media}))
            raise SampleError(
                f"one video a question can be answered, this one has {len(media)} media parts ({kinds})"
            )
        if not videos:
            return None
        video = videos[0]
        if not isinstance(video.get("url"), str):
            raise SampleError(
                f"the task gives its video as {type(video.get('url')).__name__}, not as a file's path"
            )
        return Clip(
            video["url"],
            int(video.get("num_frames") or self.args.num_frames),
            video.get("start_time"),
            video.get("end_time"),
            video.get("sampling") or self.sampling,
            video.get("duration"),
            self.args.reader,
        )

    def data_digest(self, sample: Sample) -> str:
        """What was asked about: the document without the place of its files, and the video's size and bounds."""
        clip = self.clip(sample)
        document = {name: value for name, value in sample.doc.items() if name not in ("video", "video_path")}
        video = None if clip is None else [file_identity(clip.path)["size"], clip.start, clip.end]
        return digest([document, video])[:16]

    def _fields(self, task: str, metadata: Mapping[str, Any], sample: Sample | None) -> dict[str, Any]:
        """What every record of a request says."""
        num_frames, category = int(metadata.get("num_frames") or self.args.num_frames), ""
        if sample is not None:
            category = str(sample.doc.get("family") or "") if sample.is_ours else ""
            with suppress(SampleError):
                clip = self.clip(sample)
                num_frames = clip.num_frames if clip else 0
        fields = {
            "engine": self.args.engine,
            "checkpoint": self.checkpoint,
            "base": str(metadata.get("base") or task),
            "category": category,
            "protocol": str(metadata.get("protocol") or "stock"),
            "num_frames": num_frames,
            "vision": "released" if self.args.released_vision else "",
        }
        try:
            arm = self.flows.of(task, metadata)
        except SkippedSampleError:
            return fields | {"flow": str(metadata["flow"])}
        return fields | {
            "flow": arm.flow.text,
            "flow_name": arm.flow.name,
            "flow_digest": arm.bound.digest,
        }

    @cached_property
    def _runtime(self) -> dict[str, Any]:
        return {
            "engine": self.args.engine,
            "dtype": str(self.dtype),
            "attention": self.args.attn_implementation,
            "device": self._device.type,
            "batch_size": self.args.batch_size,
            **({"vision": "released"} if self.args.released_vision else {}),
            **package_versions(),
        }

    @property
    def _weights(self) -> str:
        """What tells this checkpoint from another that is loaded under the same name, or was changed since."""
        if self._identity is None:
            self._look_at_model()
        return self._identity or ""

    def _look_at_model(self, num_requests: int = 0) -> None:
        """Hashes what is in memory, when a run begins: weights may be edited after they were loaded.

        A task that asks in rounds begins a run for each question: within one evaluation it is then done again only
        when a twentieth of the time has gone into it.
        """
        start = time.monotonic()
        if self._identity is not None and num_requests == 1 and start < self._identity_holds_until:
            return
        self._identity = checkpoint_identity(
            f"{self.checkpoint}@{self.args.revision}",
            self.model,
            self.chat.settings,
            self.chat.tokenizer,
            (type(self), type(self.chat)),
        )
        taken = time.monotonic() - start
        self._identity_holds_until = time.monotonic() + 20 * taken if host.evaluation() is not None else 0.0

    def cache_keys(self, requests: Sequence[Any]) -> dict[tuple[str, int, int], str]:
        """What lmms-eval's own cache must know of each request: all that the records know."""
        self._look_at_model(len(requests))
        with_baseline = self._with_baseline(list(requests))
        keys = {}
        for index, request in enumerate(requests):
            try:
                key = self._key(unpack(request, index, self.task_dict), with_baseline)
            except (SampleError, FlowError):
                key = uuid.uuid4().hex  # equals nothing: the model is asked, and says what is wrong
            keys[request.task_name, request.doc_id, request.idx] = key
        return keys

    def _key(self, sample: Sample, with_baseline: frozenset[QuestionId] = frozenset()) -> str:
        clip = self.clip(sample)
        arm = self.flows.of(sample.task, sample.metadata)
        # The last digits of an arm tell whether it went on from full attention's states.
        off_baseline = arm.flow.needs_masks and self.goes_on_from_baseline(sample, with_baseline)
        return sample_key(
            task=sample.task,
            document=sample.doc,
            prompt=self.chat.render(sample.messages),
            videos=[] if clip is None else [{**asdict(clip), **file_identity(clip.path)}],
            gen_kwargs=generation_key(sample.gen_kwargs, self.asked.seed),
            checkpoint=self._weights,
            flow_digest=arm.bound.digest,
            runtime=self._runtime | ({"baseline": True} if off_baseline else {}),
        )

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token to id."""
        return dict(self.chat.tokenizer.get_vocab())


def _begin_evaluation(model: Any, tasks: MutableMapping[str, Any]) -> None:
    if isinstance(model, FlowModel):
        model._identity = None  # its weights may have been edited since the last one
        fail_one_by_one(tasks)


__all__ = ["FlowModel", "ModelArguments", "VideoChat"]
