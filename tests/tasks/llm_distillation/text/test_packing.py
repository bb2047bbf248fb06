import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.llm_distillation.text.chat import Sample
from tasks.llm_distillation.text.packing import best_fit, check_sealed, fitted, model_inputs, pack
from tests.tasks.llm_distillation import tiny

PAD = 9


@st.composite
def documents(draw, most=24):
    """Samples whose ids tell where they belong: all different."""
    sizes = draw(st.lists(st.integers(0, most), min_size=1, max_size=12))
    made, start = [], 100
    for size in sizes:
        learned = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
        made.append(Sample(np.arange(start, start + size, dtype=np.int32), learned, draw(st.booleans())))
        start += size
    return made


@given(st.lists(st.integers(1, 10), max_size=30), st.integers(10, 14))
def test_best_fit_loses_and_overfills_nothing(sizes, capacity):
    bins = best_fit(sizes, capacity)
    assert sorted(number for members in bins for number in members) == list(range(len(sizes)))
    assert all(sum(sizes[number] for number in members) <= capacity for members in bins)
    assert bins == sorted(bins)
    assert all(members == sorted(members) for members in bins)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=30))
def test_best_fit_leaves_no_two_bins_that_fit_in_one(sizes):
    loads = sorted(sum(sizes[number] for number in members) for members in best_fit(sizes, 10))
    assert len(loads) < 2 or loads[0] + loads[1] > 10


@given(documents(), st.integers(2, 30), st.sampled_from(["truncate", "drop"]), st.booleans())
def test_no_token_is_lost_doubled_or_moved(samples, length, over_long, together):
    kept, counts = fitted(samples, length, over_long)
    made = pack(kept, length, PAD, counts, together)
    inside = made.document >= 0
    for number, document in enumerate(kept):
        place = made.document == number
        rows = np.unique(np.nonzero(place)[0])
        assert len(rows) == 1
        assert made.ids[place].tolist() == document.ids.tolist()
        assert made.position[place].tolist() == list(range(len(document.ids)))
        assert made.loss_mask[place].tolist() == [
            bool(learned and position) for position, learned in enumerate(document.learned)
        ]
    assert inside.sum() == sum(len(document.ids) for document in kept) == made.counts["tokens"]
    assert (made.ids[~inside] == PAD).all()
    assert not made.loss_mask[~inside].any()
    assert not made.position[~inside].any()
    assert made.counts["labels"] == made.loss_mask.sum()
    assert made.counts["padding"] == (~inside).sum()
    ends = inside.sum(axis=1)
    assert all(row[:end].all() and not row[end:].any() for row, end in zip(inside, ends, strict=True))
    if not together:
        assert made.document[:, 0].tolist() == list(range(len(kept)))


@given(documents(), st.integers(2, 30), st.sampled_from(["truncate", "drop"]))
def test_every_sample_is_accounted_for(samples, length, over_long):
    kept, counts = fitted(samples, length, over_long)
    long = [sample for sample in samples if len(sample.ids) > length and sample.learned[1:].any()]
    plain = [sample for sample in long if sample.plain]
    assert counts["empty"] == sum(not sample.learned[1:].any() for sample in samples)
    assert counts["over_long"] == len(long) == counts["truncated"] + counts["dropped"] + len(plain)
    whole = len(samples) - counts["empty"] - len(long)
    pieces = sum(-(-len(sample.ids) // length) for sample in plain)
    assert len(kept) == whole + pieces + counts["truncated"]
    told = [token for sample in kept for token in sample.ids.tolist()]
    assert len(set(told)) == len(told)
    assert {token for sample in plain for token in sample.ids.tolist()} <= set(told)
    assert counts["truncated"] == 0 or over_long == "truncate"


def some_documents(sizes, vocabulary):
    generator = np.random.default_rng(0)
    return [
        Sample(generator.integers(2, vocabulary, size, dtype=np.int32), np.ones(size, bool), True) for size in sizes
    ]  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_document_has_the_logits_that_it_has_alone(family, attention):
    model = getattr(tiny, family)(50)
    model.set_attn_implementation(attention)
    kept = some_documents([7, 1, 12, 3, 20, 1, 1], 50)
    made = pack(kept, 24, PAD, {})
    with torch.no_grad():
        packed = model(**model_inputs(made.ids, made.position, "cpu")).logits
        for number, document in enumerate(kept):
            alone = model(torch.from_numpy(document.ids.astype(np.int64))[None]).logits[0]
            found = packed[torch.from_numpy(made.document == number)]
            torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
    assert packed.isfinite().all()
    check_sealed(model, family)


def test_a_leaking_model_is_refused():
    class Leaking(torch.nn.Module):
        """Its logits at a place depend on all ids before it."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, input_ids, position_ids, use_cache):
            weighted = (input_ids * torch.arange(1, 5)).cumsum(1)
            return type("Told", (), {"logits": (weighted[..., None] * self.weight)})

    with pytest.raises(ValueError, match=r"documents in one sequence see each other.*`pack: false`"):
        check_sealed(Leaking(), "leaking")
