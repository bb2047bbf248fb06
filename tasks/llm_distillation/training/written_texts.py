"""The texts that a student writes while it learns: drawn, corrected by the teacher, kept and replayed."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from orchestrator.task import Context, Facts, Progress
from tasks.llm_distillation.distill_config import DistillConfig
from tasks.llm_distillation.text.chat import Sample
from tasks.llm_distillation.text.packing import Sequences, pack
from tasks.llm_distillation.training.lm_plan import rows_of_step
from tasks.llm_distillation.training.lm_step import Batch, batch_of, head_of, hidden_states
from tasks.llm_distillation.training.on_policy import (
    OnPolicy,
    Origin,
    error_place,
    grown,
    origin,
    prompts_of,
    token_divergence,
)
from tasks.llm_distillation.writing.engines import Writer, engine_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IDS, PROMPTS = "written/ids", "written/prompts"
NOTHING = -1
"""Fills up rows of kept texts."""
T = TypeVar("T")


class Text(NamedTuple):
    """A prompt and what was written after it."""

    prompt: int
    """Number of tokens that were given."""
    ids: list[int]
    """All tokens."""


class Writing:
    """What a student writes, on one rank. All ranks hold the same kept texts; each writes its part of a batch."""

    def __init__(
        self,
        config: DistillConfig,
        sequences: Sequences,
        teacher: "PreTrainedModel",
        tokenizer: Facts,
        context: Context,
        saved: Progress | None,
    ) -> None:
        assert config.on_policy is not None
        self._config, self._settings, self._tokenizer = config, config.on_policy, tokenizer
        self._teacher, self._context = teacher, context
        self._engine = engine_for(
            self._settings.sampling.engine, vocabulary=tokenizer["size"], end=tokenizer["eos"], length=config.length,
            batch=-(-config.batch // context.world_size), device=context.device,
        )  # fmt: skip
        self._prompts = _prompts(config, self._settings, sequences)
        self._kept: deque[Text] = deque(maxlen=self._settings.buffer.capacity if self._settings.buffer else 0)
        self._share, self._loss = self._settings.share, None
        if saved is not None:
            self._kept.extend(_unpacked(saved.tensors))
            self._share, self._loss = saved.facts["share"], saved.facts["judged"]

    @property
    def keeps(self) -> bool:
        """Whether texts are kept, so that where those of a step come from depends on the steps before."""
        return self._settings.buffer is not None

    def origin(self, step: int, steps: int) -> Origin:
        """Where the texts of step `step` of `steps` come from."""
        draw = float(_uniform(self._context.seed("origin", step)))
        done = step / steps if self.keeps else 0.0
        return origin(draw, self._share, done, len(self._kept) == self._kept.maxlen)

    def replay(self, step: int) -> list[Text]:
        """This rank's part of a batch of kept texts."""
        generator = torch.Generator().manual_seed(self._context.seed("replay", step))
        chosen = torch.randint(len(self._kept), (self._config.batch,), generator=generator).tolist()
        return self._own([self._kept[place] for place in chosen])

    def write(self, step: int, student: "PreTrainedModel") -> list[Text]:
        """This rank's part of a batch that `student` writes now; a collective call where texts are kept."""
        batch = self._config.batch
        rows = rows_of_step(
            step, batch, len(self._prompts), lambda epoch: self._context.seed("prompts", epoch)
        )
        places = self._own(range(batch))
        texts = [Text(len(self._prompts[row]), self._prompts[row]) for row in self._own(rows)]
        writer = self._engine.writer(student)
        texts = self._continued(writer, texts, [self._seed(step, place, 0) for place in places])
        for turn in range(1, self._settings.corrections + 1):
            seeds = [self._seed(step, place, turn) for place in places]
            texts = self._continued(writer, self._corrected(student, texts), seeds)
        if self.keeps:
            self._kept.extend(self._of_all_ranks(texts))
        return texts

    def judged(self, loss: float) -> None:
        """Takes note of a loss on the held-out sequences."""
        if self._settings.buffer is not None:
            self._share, self._loss = grown(self._share, loss, self._loss, self._settings.buffer), loss

    def sequences(self, texts: Sequence[Text]) -> Sequences:
        """One text a sequence; what was written is learned."""
        samples = [
            Sample(np.array(ids, np.int32), np.arange(len(ids)) >= prompt, plain=False)
            for prompt, ids in texts
        ]
        return pack(samples, self._config.length, 0, {}, together=False)

    def progress(self) -> tuple[dict[str, Tensor], Facts]:
        """What a resumed run needs of it: tensors, on rank 0, and facts."""
        facts = {"share": self._share, "judged": self._loss}
        return (_packed(self._kept) if self._context.rank == 0 and self._kept else {}), facts

    def _seed(self, step: int, place: int, turn: int) -> int:
        return self._context.seed("written", step, place, turn)

    def _own(self, batch: Sequence[T]) -> list[T]:
        return list(batch[self._context.rank :: self._context.world_size])

    def _of_all_ranks(self, texts: Sequence[Text]) -> Iterable[Text]:
        """In the order of the batch."""
        parts: list[list[Text]] = [[]] * self._context.world_size
        torch.distributed.all_gather_object(parts, list(texts))
        placed = [
            (rank + turn * len(parts), text)
            for rank, part in enumerate(parts)
            for turn, text in enumerate(part)
        ]
        return [text for _, text in sorted(placed, key=lambda pair: pair[0])]

    def _continued(self, writer: Writer, texts: Sequence[Text], seeds: Sequence[int]) -> list[Text]:
        """Each text written on, up to the end token or the most that may be written after its prompt."""
        sampling, end = self._settings.sampling, self._tokenizer["eos"]
        limits = [min(self._config.length, text.prompt + sampling.new_tokens) for text in texts]
        rooms = [limit - len(text.ids) for limit, text in zip(limits, texts, strict=True)]
        going = [
            row for row, text in enumerate(texts) if rooms[row] > 0 and end not in text.ids[text.prompt :]
        ]
        if not going:
            return list(texts)
        longest = sampling.model_copy(update={"new_tokens": max(rooms[row] for row in going)})
        prompts, own = [texts[row].ids for row in going], [seeds[row] for row in going]
        written = writer(prompts, own, longest)
        made = list(texts)
        for row, added in zip(going, written, strict=True):
            made[row] = Text(texts[row].prompt, (texts[row].ids + added)[: limits[row]])
        return made

    @torch.no_grad()
    def _corrected(self, student: "PreTrainedModel", texts: Sequence[Text]) -> list[Text]:
        """SCRG: each text up to its worst token, which is the teacher's choice; what follows is to be written anew."""
        if not texts:
            return []
        sequences = self.sequences(texts)
        batch = batch_of(sequences, np.arange(len(sequences)), self._context.device)
        divergence, likeliest = self._compared(student, batch)
        changed = []
        for row, (prompt, ids) in enumerate(texts):
            part = slice(prompt - 1, len(ids) - 1)  # the position before a token predicts it
            written = batch.ids[row, prompt : len(ids)]
            place = error_place(divergence[row, part], written, likeliest[row, part])
            right = ids if place is None else [*ids[: prompt + place], int(likeliest[row, part][place])]
            changed.append(Text(prompt, right))
        return changed

    def _compared(self, student: "PreTrainedModel", batch: Batch) -> tuple[Tensor, Tensor]:
        """Divergence and the teacher's likeliest token at each place (B,T)."""
        known = [
            (hidden_states(model, batch).flatten(0, 1), head_of(model)) for model in (student, self._teacher)
        ]
        found = token_divergence(known[0], known[1], self._tokenizer["size"])
        return found[0].view(batch.ids.shape), found[1].view(batch.ids.shape)


def _prompts(config: DistillConfig, settings: OnPolicy, sequences: Sequences) -> list[list[int]]:
    found = prompts_of(sequences, range(len(sequences) - config.held_out), settings.prompt_tokens)
    fitting = [prompt for prompt in found if len(prompt) < config.length]
    if not fitting:
        raise ValueError(
            f"on_policy: no document of the corpus is longer than prompt_tokens ({settings.prompt_tokens}); lower it"
        )
    return fitting


def _packed(texts: Iterable[Text]) -> dict[str, Tensor]:
    """Texts as two tensors: ids (N, longest), filled up, and prompts (N,)."""
    rows = [torch.tensor(text.ids, dtype=torch.int32) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NOTHING)
    return {IDS: ids, PROMPTS: torch.tensor([text.prompt for text in texts], dtype=torch.int32)}


def _unpacked(tensors: Mapping[str, Tensor]) -> list[Text]:
    if IDS not in tensors:
        return []
    rows = zip(tensors[PROMPTS].tolist(), tensors[IDS].tolist(), strict=True)
    return [Text(prompt, [token for token in ids if token != NOTHING]) for prompt, ids in rows]


def _uniform(seed: int) -> Tensor:
    return torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
