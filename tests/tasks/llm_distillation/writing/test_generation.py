import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.llm_distillation.writing.generation import Sampling, draw, write
from tests.tasks.llm_distillation import tiny

PROMPTS = [[0, 5, 9], [0, 7], [0, 3, 4, 8, 11, 2, 6], [12], [0, 9, 9, 9, 9]]
SEEDS = [11, 12, 13, 14, 15]


def written(model, rows=range(5), *, end=None, vocabulary=40, **sampling):
    sampling = Sampling(**({"new_tokens": 12} | sampling))
    prompts, seeds = [PROMPTS[row] for row in rows], [SEEDS[row] for row in rows]
    return write(model, prompts, seeds, sampling, vocabulary=vocabulary, end=end)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    """In float64 and with large logits, so that neither rounding nor flatness decides."""
    made = getattr(tiny, request.param)(40, tie_word_embeddings=False).double()
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(15)
    return made


def test_rows_do_not_depend_on_their_companions(model):
    together = written(model)
    assert together == [written(model, [row])[0] for row in range(5)]
    assert written(model, [4, 2])[::-1] == [together[2], together[4]]
    assert all(len(row) == 12 for row in together)


def test_greedy_is_what_the_library_writes(model):
    for prompt, row in zip(PROMPTS, written(model, temperature=0.0), strict=True):
        told = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64), max_new_tokens=12,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert row == told[0, len(prompt) :].tolist()


def test_a_token_has_the_logits_of_the_whole_text_before_it(model):
    """The cache, the padding and the positions fit together."""
    for prompt, row in zip(PROMPTS, written(model, temperature=0.0), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == row


def test_the_seed_decides(model):
    assert written(model) == written(model)
    prompts = [PROMPTS[0]] * 8
    rows = write(model, prompts, range(8), Sampling(new_tokens=12), vocabulary=40, end=None)
    assert len({tuple(row) for row in rows}) > 1


def test_a_row_stops_at_the_end_token_and_the_others_go_on(model):
    free = written(model)
    end = free[0][3]
    stopped = written(model, end=end)
    for row, whole in zip(stopped, free, strict=True):
        length = whole.index(end) + 1 if end in whole else 12
        assert row == whole[:length]


def test_padding_of_the_vocabulary_is_never_written(model):
    assert max(token for row in written(model, vocabulary=13, temperature=5.0) for token in row) < 13


@given(
    st.lists(st.floats(-4, 4), min_size=2, max_size=8), st.floats(0, 1, exclude_max=True), st.floats(0.05, 1)
)
def test_only_the_nucleus_is_drawn_from(logits, random, top_p):
    logits = torch.tensor([logits], dtype=torch.float64)
    token = int(draw(logits, torch.tensor([random], dtype=torch.float64), Sampling(top_p=top_p)))
    probabilities = logits.softmax(-1)[0]
    likelier = probabilities[probabilities > probabilities[token]].sum()
    assert likelier < top_p + 1e-9


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(30000, 1)
    randoms = torch.rand(30000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sampling, expected in (
        (Sampling(), torch.tensor([0.0, 1.0, 2.0]).softmax(0)),
        (Sampling(temperature=2.0), torch.tensor([0.0, 0.5, 1.0]).softmax(0)),
        (Sampling(top_p=0.7), torch.tensor([-torch.inf, 1.0, 2.0]).softmax(0)),
        (Sampling(top_p=0.6), torch.tensor([0.0, 0.0, 1.0])),
        (Sampling(temperature=0.0), torch.tensor([0.0, 0.0, 1.0])),
    ):
        found = draw(logits, randoms, sampling).bincount(minlength=3) / 30000
        torch.testing.assert_close(found, expected, rtol=0, atol=0.01)
