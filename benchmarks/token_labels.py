"""Bytes a token of a language model's cached labels, and what is lost, beside raw top-k and DistillKit's format.

A real model reads real text; its k likeliest tokens of each position are packed in three ways: as the task
token_labels does it, as DistillKit's published format (`_distillkit`), and raw (bf16 value, int32 id). Prints a
table and, last, one line of JSON. Needs the data folder, or a model's folder of your own:

    .venv/bin/python benchmarks/token_labels.py [MODEL ...] [--corpus FILE] [--positions N] [--small]

Bytes of ours are those of whole files as the store writes them: the Arrow file with token ids, masks and packed
labels, and the Parquet file of the codec's tables. Those of the others are the labels alone, without token ids.

"kl" is KL(teacher || what is read back) over the whole vocabulary in nats, by the one definition of
`tasks/llm_distillation/labels/label_loss.py`, for all three. Its part "kl_kept" is what packing loses; the other, what
lies outside the k tokens, is the same for all. DistillKit and raw keep no tail: it is 1 less the sum of the k
probabilities, 1e-6 at least (DistillKit's own floor), and all is scaled to sum to 1. Ours takes the default step,
or a finer one where DistillKit's loss is below that of the default step.

Weights and hidden states are bf16; head, logits and all that follows are fp32 or fp64.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _distillkit import pack, published, unpack
from numpy.typing import NDArray

from tasks.llm_distillation.labels import label_loss
from tasks.llm_distillation.labels.label_forms import TokenLabels
from tasks.llm_distillation.labels.label_loss import Truth
from tasks.llm_distillation.labels.label_rows import tables_to_rows, to_rows
from tasks.llm_distillation.labels.labelled import packed_blocks
from tasks.llm_distillation.labels.level_scale import from_levels, to_levels
from tasks.llm_distillation.labels.token_codec import Codec, Sets, fit
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.packing import Sequences, model_inputs
from tasks.llm_distillation.text.sequences import sequences

MODELS = ("smollm2_135m_instruct", "lm_stories260k")
CORPUS = "shakespeare.txt.gz"
KS = (32, 50, 64, 128)
LENGTH = 512
LEAST_TAIL = 1e-6
MOST_STEPS_TRIED = 4


@dataclass(frozen=True)
class Spoken:
    """What a model says over some sequences: its likeliest tokens at N learned positions, most likely first."""

    sequences: Sequences
    numbers: NDArray[np.int64]
    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    negentropy: NDArray[np.float64]
    vocabulary: int

    @property
    def sizes(self) -> list[int]:
        return [int(row.sum()) for row in self.sequences.loss_mask[self.numbers]]

    def truth(self, k: int) -> Truth:
        return Truth(self.logprobs[:, :k], self.negentropy, self.vocabulary)


@dataclass(frozen=True)
class Packed:
    """How many bytes a token something took, and both parts of what it lost."""

    size: float
    kept: float
    spread: float

    @property
    def kl(self) -> float:
        return self.kept + self.spread


def listen(name: str, corpus: str, positions: int, most: int) -> Spoken:
    """Lets the model read until it has labelled so many positions."""
    model = LanguageModel(name=name, dtype="bf16")
    found = sequences(Corpus(path=corpus), model.tokenizer(), LENGTH)
    enough = int(np.searchsorted(found.loss_mask.sum(1).cumsum(), positions)) + 1
    numbers = np.arange(min(enough, len(found)))
    loaded = model.load("cpu")
    head = loaded.get_output_embeddings().weight.detach().float()[: model.vocabulary]
    parts: list[tuple[Any, ...]] = []
    with torch.inference_mode():
        for number in numbers:
            given = model_inputs(found.ids[[number]], found.position[[number]], "cpu")
            places = torch.from_numpy(np.flatnonzero(found.loss_mask[number]) - 1)
            hidden = loaded.base_model(**given).last_hidden_state[0][places]
            logprobs = torch.log_softmax(hidden.float() @ head.T, 1)
            top = logprobs.topk(min(most, logprobs.shape[1]), dim=1)
            parts.append((top.indices, top.values.double(), (logprobs.exp() * logprobs).sum(1).double()))
    ids, logprobs, negentropy = (torch.cat(own).numpy() for own in zip(*parts, strict=True))
    return Spoken(found, numbers, ids, logprobs, negentropy, model.vocabulary)


def ours(spoken: Spoken, k: int, not_above: float) -> tuple[Packed, float, float]:
    """What the task keeps; the step, and the tokens a second that a core reads back."""
    truth, step = spoken.truth(k), TokenLabels().step
    with np.errstate(divide="ignore"):
        tail = np.log(truth.tail).astype(np.float16)
    for _ in range(MOST_STEPS_TRIED):
        levels = to_levels(truth.logprobs, step)
        kept = float(
            label_loss.kept(
                truth, from_levels(levels, step).astype(np.float64), tail.astype(np.float64)
            ).mean()
        )
        if kept <= not_above:
            break
        step *= 0.98 * (not_above / kept) ** 0.5
    count = np.full(len(levels), k, np.int32)
    sets = Sets(spoken.ids[:, :k].astype(np.int32), levels, count, tail.view(np.uint16))
    fitted = fit(sets, spoken.vocabulary, seed=0)
    blocks, tables = packed_blocks(sets, fitted, spoken.sizes), tables_to_rows(fitted.tables)
    rows = to_rows(spoken.sequences, spoken.numbers, blocks, spoken.vocabulary)
    size = file_bytes(rows, tables) / len(levels)
    pace = reading_pace(Codec(fitted.tables), blocks, spoken.sizes, sets)
    return Packed(size, kept, float(label_loss.spread(truth).mean())), step, pace


def file_bytes(rows: pa.Table, tables: pa.Table) -> int:
    """Of a shard's files, written as the store does."""
    with TemporaryDirectory() as folder:
        arrow, parquet = Path(folder) / "labels.arrow", Path(folder) / "tables.parquet"
        with pa.OSFile(str(arrow), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        pq.write_table(tables, parquet, compression="zstd")
        return arrow.stat().st_size + parquet.stat().st_size


def reading_pace(codec: Codec, blocks: Sequence[bytes], sizes: Sequence[int], sets: Sets) -> float:
    """Tokens a second of a core, sixteen sequences at once; and makes sure that what is read is what was written."""
    at_once, begun = 16, time.process_time()
    read = [
        codec.unpack(blocks[i : i + at_once], sizes[i : i + at_once]) for i in range(0, len(blocks), at_once)
    ]
    pace = len(sets) / (time.process_time() - begun)
    ids, levels = (np.concatenate([getattr(own, name) for own in read]) for name in ("ids", "levels"))
    for one, other in ((sets.ids, ids), (sets.levels, levels)):
        first, second = np.argsort(sets.ids, axis=1), np.argsort(ids, axis=1)
        assert (np.take_along_axis(one, first, 1) == np.take_along_axis(other, second, 1)).all()
    return pace


def distillkit(spoken: Spoken, k: int) -> Packed:
    """DistillKit's format at this k."""
    form, truth = published(k), spoken.truth(k)
    packed = pack(truth.logprobs.astype(np.float32), spoken.ids[:, :k], spoken.vocabulary, form)
    logprobs, ids = unpack(packed, spoken.vocabulary, form)
    assert (ids == spoken.ids[:, :k]).all()
    return without_tail(truth, logprobs, len(packed) / len(ids))


def raw(spoken: Spoken, k: int) -> Packed:
    """A bf16 and an int32 for each token."""
    truth = spoken.truth(k)
    return without_tail(truth, torch.from_numpy(truth.logprobs).bfloat16().double().numpy(), 6.0 * k)


def without_tail(truth: Truth, logprobs: NDArray[np.float64], size: float) -> Packed:
    """The loss of log-probabilities whose tail is what they leave."""
    log_tail = np.log(np.maximum(1 - np.exp(logprobs).sum(1), LEAST_TAIL))
    lost = label_loss.kept(truth, logprobs, log_tail)
    return Packed(size, float(lost.mean()), float(label_loss.spread(truth).mean()))


def compare(spoken: Spoken, k: int) -> dict[str, Any]:
    """A row of the result."""
    peer, plain = distillkit(spoken, k), raw(spoken, k)
    own, step, pace = ours(spoken, k, peer.kept)
    named = {"": own, "distillkit_": peer, "raw_": plain}
    figures = {
        f"{name}{what}": value
        for name, packed in named.items()
        for what, value in (("bytes_per_token", packed.size), ("kl", packed.kl), ("kl_kept", packed.kept))
    }
    return {"k": k, "vocab": spoken.vocabulary, "step": step, "read_tokens_per_second": pace, **figures}


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['k']:4d} {row['vocab']:6d} | {row['bytes_per_token']:8.1f} {row['kl_kept']:9.2e} | "
        f"{row['distillkit_bytes_per_token']:8.1f} {row['distillkit_kl_kept']:9.2e} | "
        f"{row['raw_bytes_per_token']:7.0f} {row['raw_kl_kept']:9.2e} | {row['kl'] - row['kl_kept']:7.4f} | "
        f"{row['bytes_per_token'] / row['distillkit_bytes_per_token']:5.3f} | {row['step']:.4f} | "
        f"{row['read_tokens_per_second']:9,.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes a token of cached labels, and what is lost.")
    parser.add_argument(
        "models", nargs="*", default=list(MODELS), help="model folders; the first is the one judged"
    )
    parser.add_argument("--corpus", default=CORPUS)
    parser.add_argument("--positions", type=int, default=51_000)
    parser.add_argument(
        "--small", action="store_true", help="the last model alone, 3,000 positions, k = 32 and 128"
    )
    given = parser.parse_args()
    models, positions, ks = given.models, given.positions, KS
    if given.small:
        models, positions, ks = models[-1:], 3_000, (32, 128)
    torch.set_num_threads(2)
    print(
        "            |       ours        |    DistillKit     |       raw        |         |       |        | tokens/s"
    )
    print(
        "   k  vocab |  B/token  kl kept |  B/token  kl kept | B/token  kl kept |  spread | ratio |   step | read back"
    )
    rows, counts = [], []
    for name in models:
        spoken = listen(name, given.corpus, positions, max(ks))
        counts.append(len(spoken.ids))
        for k in ks:
            if k <= spoken.vocabulary:
                rows.append(compare(spoken, k))
                show(rows[-1])
    judged = next(row for row in rows if row["k"] == 128)
    result = {
        "rows": rows,
        "ratio_to_distillkit_k128": judged["bytes_per_token"] / judged["distillkit_bytes_per_token"],
        "kl": judged["kl"],
        "distillkit_kl": judged["distillkit_kl"],
        "kl_kept": judged["kl_kept"],
        "distillkit_kl_kept": judged["distillkit_kl_kept"],
        "positions": counts[0],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
