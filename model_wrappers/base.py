"""The base of our models: lmms-eval's requests in, answers and records out, under a flow.

A wrapper of a new model family names its default checkpoint. Where transformers' automatic classes don't load it, it
overrides `load`; where prompts or frames work otherwise, it returns a `VideoChat` of its own. See
docs/adding-a-model.md.
"""

from __future__ import annotations

import os
import sys
import traceback
import uuid
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar, NoReturn

import torch
from accelerate import Accelerator
from loguru import logger
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from lmms_flow.engine import Check, check_layers, decoder_layers, require_self_check
from lmms_flow.errors import (
    SAMPLE_FAILURES,
    CheckpointError,
    FlowError,
    RunError,
    UnsupportedModelError,
    UserError,
)
from lmms_flow.flow import Flow
from lmms_flow.flow.controls import NONE
from lmms_flow.harness import host
from lmms_flow.harness.broken_documents import fail_one_by_one
from lmms_flow.harness.host_cache import refuse_missing_clips, refuse_what_it_would_hide
from lmms_flow.harness.host_calls import before_tasks
from lmms_flow.harness.host_flags import read_flags
from lmms_flow.harness.interrupts import told_in_one_line
from lmms_flow.harness.loop import RequestLoop
from lmms_flow.harness.sample import describe, traced, unpack
from lmms_flow.harness.telling import tell
from lmms_flow.inputs.chat import VideoChat
from lmms_flow.inputs.native_chat import chat_for, check_processor, limit_pixels
from lmms_flow.inputs.read_ahead import ReadAhead
from lmms_flow.records.journal import Journal
from lmms_flow.runner.adapters import find_adapter
from lmms_flow.runner.announcing import about_the_run, after_the_run
from lmms_flow.runner.answering import Answerer
from lmms_flow.runner.arguments import ModelArguments, as_read, joined, read_arguments
from lmms_flow.runner.asking import Asking
from lmms_flow.runner.dry_run import duration, estimates, memory
from lmms_flow.runner.flows import Flows
from lmms_flow.runner.generation import check_generation
from lmms_flow.runner.identity import WatchedIdentity, checkpoint_identity
from lmms_flow.runner.loaded import LoadedModel
from lmms_flow.runner.preflight import before_loading
from lmms_flow.runner.weights import load_exactly

SMALL_MODEL = 50_000_000  # parameters


# Without lmms-eval a wrapper loads all the same: `lmms_flow.load` needs no harness.
_HostModel: Any = host.MODEL_BASE.take() if find_spec("lmms_eval") else object


class FlowModel(_HostModel):  # type: ignore[misc]
    """A VideoLLM of transformers that runs under a flow."""

    is_simple = False
    runs_flows = True  # tasks that carry a flow ask for this
    default_checkpoint: ClassVar[str] = ""
    sampling: ClassVar[str] = "midpoints"  # which frames of a video, where the task does not say
    has_released_vision: ClassVar[bool] = False  # whether the argument released_vision means something here
    form: ClassVar[str] = "paper"  # how a question is put (lmms_flow.inputs.forms), where no task says it
    model_types: ClassVar[
        tuple[str, ...]
    ] = ()  # of a config.json: which checkpoints `lmms_flow.load` gives it
    _is_checked = False
    _checks: Sequence[Check] = ()
    _is_told = False  # what this evaluation runs
    _said_at_the_end = ""

    def __init__(self, **model_args: Any) -> None:
        super().__init__()
        self.args = read_arguments(model_args)
        self.checkpoint = self.args.pretrained or self.default_checkpoint
        self.asked = read_flags()
        if _HostModel is not object:
            before_tasks(_begin_evaluation)
        accelerator = Accelerator()
        self.accelerator = accelerator
        self._rank, self._world_size = accelerator.local_process_index, accelerator.num_processes
        try:
            self.flow = Flow.load(self.args.flow, checkpoint=self.checkpoint)
            before_loading(self.checkpoint, self.args.records, self._rank)
            self._place(accelerator)
            if self.args.released_vision and not self.has_released_vision:
                raise RunError("released_vision=true is for videollama3_flow alone: leave it out")
            self.chat = self._load_with_adapter(self.checkpoint)
            self.model = self.chat.model.eval()
            self._limit_threads()
            num_layers = len(decoder_layers(check_layers(self.model)))
            flows = Flows(self.flow, self.checkpoint, num_layers)
            self.loaded = LoadedModel(
                self.checkpoint,
                self.chat,
                self.args,
                flows,
                self._device,
                self.dtype,
                self.sampling,
                self.form,
            )
            self.identity = WatchedIdentity(self._identify)
            self._check_digest(flows.own.bound.digest)
            self._check()
        except Exception as error:  # the host would end with exit status 0
            expected = isinstance(error, (UserError, OSError, ValueError, ImportError))
            if not expected:
                traceback.print_exception(error)
            what = str(error) if expected else describe(error)
            raise RunError(f"{type(self).__name__}, {self.checkpoint}: {what}") from error

    def load(self, source: str) -> VideoChat:
        """Loads a repository id or folder. As it stands here: by transformers' automatic classes."""
        try:
            processor = AutoProcessor.from_pretrained(source, **self.hub_arguments)  # has a revision  # nosec B615
        except ImportError as error:  # of a package that this processor alone needs
            raise CheckpointError(f"its processor can't be loaded ({_first_line(error)})") from error
        check_processor(processor)
        limit_pixels(processor, self.args.min_pixels or None, self.args.max_pixels or None)
        try:
            model = load_exactly(AutoModelForImageTextToText, source, self.loading_arguments)
        except ValueError as error:  # transformers has no such class, and names all that it has
            raise CheckpointError(_first_line(error)) from error
        return chat_for(model, processor)

    def _load_with_adapter(self, source: str) -> VideoChat:
        """The checkpoint; where it is an adapter alone, its base with the adapter in it."""
        if self.args.peft:
            return self._load_below(self.args.peft, source)
        adapter = find_adapter(source, self.args.revision) if source else None
        if adapter is None:
            return self.load(source)
        try:
            chat = self.load(adapter.base or source)
        except (
            RuntimeError,
            CheckpointError,
        ) as error:  # transformers applies one beside its base while loading
            raise adapter.misfit(error) from None
        adapter.apply(chat.model)
        base = adapter.base or "the weights beside it"
        self._said_at_the_end = f"lmms_flow: the adapter {source} is applied to its base, {base}"
        logger.info(self._said_at_the_end)
        return chat

    def _load_below(self, named: str, source: str) -> VideoChat:
        """The checkpoint with the adapter that `peft` names on top."""
        adapter = find_adapter(named, "main")
        if adapter is None:
            raise CheckpointError(f"peft={named}: there is no adapter, it has no adapter_config.json")
        chat = self.load(source)
        replace(adapter, base=source).apply(chat.model)
        self._said_at_the_end = f"lmms_flow: the adapter {named} is applied to {source}"
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
        self.identity.look(len(requests))
        asking = self._asking(requests)
        asking.check_traces(requests)
        if self.args.dry_run:
            self._tell_costs(asking, requests)
            raise SystemExit(0)
        journal = None
        if self.args.records != "none":
            journal = Journal(self.args.records, rank=self._rank)
        first, self._is_told = not self._is_told and self._rank == 0, True
        if first:
            tell(about_the_run(self.loaded, self._checks, requests, journal))
        with ReadAhead(timeout=self.args.video_timeout) as reader, journal or nullcontext():
            answerer = Answerer(asking, reader)
            loop = RequestLoop(
                key=asking.key,
                answer=answerer.answer,
                journal=journal,
                batch_size=self.args.batch_size,
                on_error=self.args.on_error,  # type: ignore[arg-type]
                rank=self._rank,
                fields=asking.fields,
                ahead=answerer.announce,
            )
            with told_in_one_line(loop.kept, tell=self._rank == 0):
                answers = list(loop.run(requests, self.task_dict))
        if first:
            tell([loop.ended(), *after_the_run(requests)])
        refuse_missing_clips(loop.missing_clips)
        if self._said_at_the_end and self._rank == 0:  # beside the scores, also where the log is not shown
            print(self._said_at_the_end, file=sys.stderr)
        return answers

    def _tell_costs(self, asking: Asking, requests: Sequence[Any]) -> None:
        """What the run would cost, one line a flow and trace."""
        total = 0.0
        with ReadAhead(timeout=self.args.video_timeout) as reader:
            for each in estimates(Answerer(asking, reader), requests, self.task_dict):
                total += (each.seconds or 0) * each.questions
                if self._rank == 0:
                    print(f"dry run: {each.told()}")
        if self._rank == 0:
            shared = f" on each of {self._world_size} processes" if self._world_size > 1 else ""
            print(
                f"dry run: about {duration(total)} in all{shared}, {memory(self._device)}; nothing was answered or kept"
            )

    def _asking(self, requests: Sequence[Any]) -> Asking:
        with_baseline = Asking.questions_with_baseline(requests, self.flow.text)
        return Asking(self.loaded, self.asked, self.identity, with_baseline)

    def cache_keys(self, requests: Sequence[Any]) -> dict[tuple[str, int, int], str]:
        """What lmms-eval's own cache must know of each request: all that the records know."""
        self.identity.look(len(requests))
        asking = self._asking(requests)
        keys = {}
        for index, request in enumerate(requests):
            try:
                key = asking.key(unpack(request, index, self.task_dict))
            except SAMPLE_FAILURES:
                key = uuid.uuid4().hex  # equals nothing: the model is asked, and says what is wrong
            keys[request.task_name, request.doc_id, request.idx] = key
        return keys

    def _check(self, requests: Sequence[Any] = ()) -> None:
        """Shows once, before the first flow is run, that cuts reach this model."""
        texts = {self.flow.text, *((request.metadata or {}).get("flow") for request in requests)}
        if self._is_checked or (texts <= {NONE.name, None} and not any(traced(r.metadata) for r in requests)):
            return
        try:
            with torch.no_grad():
                self._checks = require_self_check(self.model, engine=self.args.engine)
        except (FlowError, UnsupportedModelError) as error:
            raise RunError(f"{type(self).__name__}, {self.checkpoint}: {error}") from error
        self._is_checked = True

    def loglikelihood(self, requests: list[Any]) -> NoReturn:
        """Refused: flows are for generated answers."""
        self._refuse("loglikelihood")

    def generate_until_multi_round(self, requests: list[Any]) -> NoReturn:
        """Refused: a flow's groups are those of one question."""
        self._refuse("multi-round generation")

    def generate_visual_cot(self, requests: list[Any]) -> NoReturn:
        """Refused: these models draw no pictures."""
        self._refuse("pictures that the model draws (visual_cot)")

    def _refuse(self, what: str) -> NoReturn:
        raise RunError(f"{type(self).__name__} answers generate_until tasks; this task asks for {what}")

    @property
    def batch_size(self) -> int:
        """How many questions are answered together."""
        return self.args.batch_size

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._device

    @property
    def rank(self) -> int:
        """Of this process among lmms-eval's."""
        return int(self._rank)

    @property
    def world_size(self) -> int:
        """How many processes lmms-eval runs."""
        return int(self._world_size)

    # Loading

    def _place(self, accelerator: Accelerator) -> None:
        if self.args.device:
            try:
                self._device = torch.device(self.args.device)
            except RuntimeError:
                raise RunError(f"device={self.args.device}: write cuda, cuda:1 or cpu") from None
        else:
            self._device = accelerator.device
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise RunError(f"device={self.args.device}: this machine has no GPU that torch can use")

    def _check_digest(self, digest: str) -> None:
        if self.args.flow_digest and self.args.flow_digest not in (digest, as_read(digest)):
            raise FlowError(
                f"flow {self.flow.text!r} has the digest {digest}, and flow_digest={self.args.flow_digest} was given: "
                "the flow is not the one that was meant"
            )
        refuse_what_it_would_hide(self.flow.text, digest, self.args.flow_digest, self.args.on_error)

    def _identify(self) -> str:
        """What tells this checkpoint from another that is loaded under the same name, or was changed since."""
        chat = self.chat
        name, classes = f"{self.checkpoint}@{self.args.revision}", (type(self), type(chat))
        return checkpoint_identity(name, self.model, chat.settings, chat.tokenizer, classes)

    def _limit_threads(self) -> None:
        """A small model on a CPU runs on one thread: threads that wait for one another cost more than they save.

        On a busy machine two threads made flow-tiny more than ten times slower. OMP_NUM_THREADS overrides it.
        """
        small = sum(weight.numel() for weight in self.model.parameters()) < SMALL_MODEL
        if self._device.type == "cpu" and small and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights: what was asked for, else float32 on a CPU and bfloat16 on a GPU."""
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
            **self._quantized(),
        }

    def _quantized(self) -> dict[str, Any]:
        args = self.args
        if not (args.load_in_4bit or args.load_in_8bit):
            return {}
        if args.load_in_4bit and args.load_in_8bit:
            raise RunError("load_in_4bit and load_in_8bit: leave out one")
        name = "load_in_4bit" if args.load_in_4bit else "load_in_8bit"
        if not find_spec("bitsandbytes"):
            raise RunError(
                f"{name} needs the package bitsandbytes, which is not installed: pip install bitsandbytes"
            )
        if args.load_in_4bit:
            return {
                "quantization_config": BitsAndBytesConfig(
                    load_in_4bit=True, bnb_4bit_compute_dtype=self.dtype
                )
            }
        # Outliers are not kept apart, as they are by default: which columns have one depends on all tokens of a call,
        # and what a flow cuts off would be seen in the rounding.
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _begin_evaluation(model: Any, tasks: MutableMapping[str, Any]) -> None:
    if isinstance(model, FlowModel):
        model.identity.forget()  # its weights may have been edited since the last one
        model._is_told = False
        fail_one_by_one(tasks)


__all__ = ["FlowModel", "ModelArguments", "VideoChat"]
