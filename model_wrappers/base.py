"""The base of our models: lmms-eval's requests in, answers and records out, under a flow.

A wrapper of a new model family names its default checkpoint. Where transformers' automatic classes don't load it, it
overrides `load`; where prompts or frames work otherwise, it returns a `VideoChat` of its own. See
docs/adding-a-model.md.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NoReturn

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from loguru import logger
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from lmms_flow.engine import decoder_layers, find_decoder, intervene, require_self_check
from lmms_flow.flow import Flow, FlowError, ResolvedFlow
from lmms_flow.harness.errors import RunError, SampleError
from lmms_flow.harness.generation import cut_at_stops, generation_arguments
from lmms_flow.harness.groups import EncodedPrompt, PromptGroups, find_groups
from lmms_flow.harness.journal import Journal
from lmms_flow.harness.loop import RequestLoop
from lmms_flow.harness.options import find_options
from lmms_flow.harness.sample import Outcome, Sample, describe
from lmms_flow.harness.sample_key import digest, file_identity, package_versions, sample_key
from lmms_flow.harness.video import Frames, read_frames

from .arguments import ModelArguments, read_arguments
from .chat import Messages, VideoChat


@dataclass(frozen=True)
class Prepared:
    """One sample, ready for the model: the prompt in tokens, the tensors beside it, and what its record will say."""

    sample: Sample
    prompt: EncodedPrompt
    tensors: Mapping[str, Tensor]  # pixels and the like, everything but input_ids and attention_mask
    frames: Frames | None
    groups: PromptGroups | None
    resolved: ResolvedFlow | None
    letters: tuple[str, ...] = field(default=())


SMALL_MODEL = 50_000_000  # parameters


class FlowModel(lmms):  # type: ignore[misc]
    """A VideoLLM of transformers that runs under a flow."""

    is_simple = False
    default_checkpoint: ClassVar[str] = ""

    def __init__(self, **model_args: Any) -> None:
        super().__init__()
        self.args = read_arguments(model_args)
        self.checkpoint = self.args.pretrained or self.default_checkpoint
        accelerator = Accelerator()
        self.accelerator = accelerator
        self._rank, self._world_size = accelerator.local_process_index, accelerator.num_processes
        try:
            self.flow = Flow.load(self.args.flow, checkpoint=self.checkpoint)
            self._place(accelerator)
            self.chat = self.load(self.checkpoint)
            self.model = self.chat.model.eval()
            self._limit_threads()
            self.bound = self.flow.bind(len(decoder_layers(find_decoder(self.model))))
            if self.flow.needs_masks:
                with torch.no_grad():
                    require_self_check(self.model)
        except Exception as error:  # the host would end with exit status 0
            expected = isinstance(error, (FlowError, OSError, ValueError, ImportError))
            if not expected:
                traceback.print_exception(error)
            what = str(error) if expected else describe(error)
            raise RunError(f"{type(self).__name__}, {self.checkpoint}: {what}") from error
        logger.info(
            f"flow {self.flow.text!r} ({self.flow.name}), digest {self.bound.digest}, engine {self.args.engine}"
        )

    def load(self, source: str) -> VideoChat:
        """Loads a repository id or folder. As it stands here: by transformers' automatic classes."""
        processor = AutoProcessor.from_pretrained(source, **self.hub_arguments)
        model = AutoModelForImageTextToText.from_pretrained(source, **self.loading_arguments)
        return VideoChat(model, processor)

    # What lmms-eval calls

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """Answers every request, in the order of the requests."""
        journal = None
        if self.args.records != "none":
            journal = Journal(
                self.args.records, rank=self._rank, flow=self.flow.text, flow_digest=self.bound.digest
            )
            logger.info(f"records of this run are in {journal.folder}")
        loop = RequestLoop(
            key=self._key,
            answer=self._answer,
            journal=journal,
            batch_size=self.args.batch_size,
            on_error=self.args.on_error,  # type: ignore[arg-type]
            rank=self._rank,
            common=self._common,
        )
        with journal or nullcontext():
            return list(loop.run(requests, self.task_dict))

    def loglikelihood(self, requests: list[Any]) -> NoReturn:
        self._refuse("loglikelihood")

    def generate_until_multi_round(self, requests: list[Any]) -> NoReturn:
        self._refuse("multi-round generation")

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

    @cached_property
    def _common(self) -> dict[str, Any]:
        return {
            "flow": self.flow.text,
            "flow_name": self.flow.name,
            "flow_digest": self.bound.digest,
            "engine": self.args.engine,
            "checkpoint": self.checkpoint,
        }

    @cached_property
    def _runtime(self) -> dict[str, Any]:
        return {
            "engine": self.args.engine,
            "dtype": str(self.dtype),
            "attention": self.args.attn_implementation,
            "device": self._device.type,
            "batch_size": self.args.batch_size,
            **package_versions(),
        }

    @cached_property
    def _weights(self) -> str:
        """What tells this checkpoint from another that is loaded under the same name."""
        commit = getattr(self.model.config, "_commit_hash", None)
        here = (weight.detach() for weight in self.model.parameters() if not weight.is_meta)  # not offloaded
        marks = [float(weight.flatten()[:1024].float().sum()) for weight in here]
        return f"{self.checkpoint}@{commit or self.args.revision}:{digest(marks)}"

    def _key(self, sample: Sample) -> str:
        video = self._video(sample)
        videos = []
        if video is not None:
            bounds = {name: video.get(name) for name in ("start_time", "end_time")}
            videos.append({**file_identity(video["url"]), **bounds, "num_frames": self.args.num_frames})
        return sample_key(
            task=sample.task,
            document=sample.doc,
            prompt=self.chat.render(sample.messages),
            videos=videos,
            gen_kwargs=sample.gen_kwargs,
            checkpoint=self._weights,
            flow_digest=self.bound.digest,
            runtime=self._runtime,
        )

    def _video(self, sample: Sample) -> Mapping[str, Any] | None:
        """The sample's only video part; None for a question without one."""
        media = [p for m in sample.messages for p in m["content"] if p.get("type") not in ("text", None)]
        videos = sample.videos()
        if len(media) != len(videos) or len(videos) > 1:
            kinds = ", ".join(sorted({str(part["type"]) for part in media}))
            raise SampleError(
                f"one video a question can be answered, this one has {len(media)} media parts ({kinds})"
            )
        if videos and not isinstance(videos[0].get("url"), str):
            raise SampleError(
                f"the task gives its video as {type(videos[0].get('url')).__name__}, not as a file's path"
            )
        return videos[0] if videos else None

    def _prepare(self, sample: Sample) -> Prepared:
        video = self._video(sample)
        frames = None
        if video is not None:
            start, end = video.get("start_time"), video.get("end_time")
            frames = read_frames(video["url"], self.args.num_frames, start=start, end=end)
        text = self.chat.render(sample.messages)
        prompt, tensors = self.chat.prompt(text, frames)
        user_text = _user_text(sample.messages)
        groups = resolved = None
        if self.flow.needs_masks:
            groups = find_groups(prompt, user_text, sample.doc, self.flow)
            resolved = self.bound.resolve(groups.layout)
        letters = tuple(option.letter for option in find_options(user_text.strip()))
        return Prepared(sample, prompt, tensors, frames, groups, resolved, letters)

    # Answering

    def _answer(self, samples: list[Sample]) -> list[Outcome]:
        """One outcome a sample; those that can't be prepared don't keep the others from being answered."""
        outcomes: dict[int, Outcome] = {}
        prepared: dict[int, Prepared] = {}
        for place, sample in enumerate(samples):
            try:
                prepared[place] = self._prepare(sample)
            except (SampleError, FlowError) as error:
                failure = error if isinstance(error, SampleError) else SampleError(str(error))
                outcomes[place] = Outcome.failed(failure)
        if prepared:
            outcomes.update(zip(prepared, self._generate(list(prepared.values())), strict=True))
        return [outcomes[place] for place in range(len(samples))]

    @torch.inference_mode()
    def _generate(self, batch: list[Prepared]) -> list[Outcome]:
        inputs = self._inputs(batch)
        gen_kwargs = batch[0].sample.gen_kwargs
        with self._cut(batch):
            out = self.model.generate(
                **inputs,
                **generation_arguments(gen_kwargs),
                pad_token_id=self.chat.pad_token_id,
                return_dict_in_generate=True,
                output_logits=True,
            )
        beams = len(out.logits[0]) // len(batch)
        probabilities = out.logits[0][::beams].float().softmax(-1)
        outcomes = []
        for row, one in enumerate(batch):
            answer = self.chat.tokenizer.decode(
                out.sequences[row, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            letters = {letter: self._letter_probability(letter, probabilities[row]) for letter in one.letters}
            outcomes.append(
                Outcome.ok(cut_at_stops(answer, gen_kwargs).strip(), options=letters, **_details(one, self))
            )
        return outcomes

    def _cut(self, batch: list[Prepared]) -> AbstractContextManager[Any]:
        if not self.flow.needs_masks:
            return nullcontext()
        layouts = [one.groups.layout for one in batch if one.groups is not None]
        return intervene(self.model, self.flow, layouts, engine=self.args.engine)

    def _inputs(self, batch: list[Prepared]) -> dict[str, Tensor]:
        """The batch on the model's device, pixels in its dtype."""
        inputs = self.chat.batch([one.prompt for one in batch], [one.tensors for one in batch])
        return {
            name: tensor.to(self._device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }

    def _letter_probability(self, letter: str, probabilities: Tensor) -> float:
        """The probability that the answer begins with this letter, with or without a space in front of it."""
        return float(probabilities[self._letter_tokens(letter)].sum())

    def _letter_tokens(self, letter: str) -> list[int]:
        vocabulary = self._vocabulary
        return [vocabulary[form] for form in (letter, f"▁{letter}", f"Ġ{letter}") if form in vocabulary]

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return dict(self.chat.tokenizer.get_vocab())


def _user_text(messages: Messages) -> str:
    """The text of the last user turn, as the task wrote it."""
    turns = [message for message in messages if message["role"] == "user"]
    parts = [part["text"] for part in turns[-1]["content"] if part.get("type") == "text"] if turns else []
    return parts[-1] if parts else ""


def _details(one: Prepared, model: FlowModel) -> dict[str, Any]:
    """The fields of a sample's record that depend on its prompt."""
    num_tokens = len(one.prompt.input_ids)
    full = model.bound.num_layers * num_tokens * (num_tokens + 1) // 2
    kept, total = one.resolved.kept_edges() if one.resolved else (full, full)
    empty = one.resolved.empty if one.resolved else ()
    return {
        "frames": one.frames.indices if one.frames else (),
        "edges_kept": kept,
        "edges_total": total,
        "groups_rule": one.groups.rule if one.groups else "",
        "notes": tuple(f"{rule} cuts nothing here: a group is empty" for rule in empty),
    }


__all__ = ["FlowModel", "Messages", "ModelArguments", "Prepared", "VideoChat"]
