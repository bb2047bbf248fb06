"""Which tokens make a word."""

import numpy as np

from tasks.llm_distillation.losses.spans import OUTSIDE
from tasks.llm_distillation.text.packing import Sequences
from tasks.llm_distillation.text.words import pairs, words


class Pieces:
    """A tokenizer of word pieces; 0 is special."""

    all_special_ids = (0,)
    tokens = ("</s>", " dis", "till", "ing", ",", " a", "\u2581sub", "word")

    def get_vocab(self):
        return {token: number for number, token in enumerate(self.tokens)}

    def convert_ids_to_tokens(self, ids):
        return [self.tokens[number] for number in ids]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)


def test_pieces_of_a_word_share_a_number_and_no_other_does():
    ids = np.array([[1, 2, 3, 4, 5, 1, 2, 0, 6, 7], [1, 2, 0, 6, 7, 7, 0, 0, 0, 0]], np.int32)
    document = np.array([[0] * 8 + [1] * 2, [2] * 6 + [-1] * 4], np.int32)
    loss_mask = np.ones((2, 10), bool)
    loss_mask[0, :2] = loss_mask[1, 6:] = False
    found = words(Sequences(ids, loss_mask, document, np.zeros_like(ids), {}), Pieces())
    row = found[0].tolist()
    assert row[0] == row[1] == row[3] == row[7] == OUTSIDE
    assert row[5] == row[6]
    assert row[8] == row[9]
    assert len({row[2], row[4], row[5], row[8], *found[1, [0, 3]].tolist()}) == 6
    assert len(set(found[found != OUTSIDE].tolist())) == 6
    assert pairs(found) == 4


def test_pairs_count_predicted_tokens_only():
    assert pairs(np.array([[3, 3, 3, 3]])) == 2
    assert pairs(np.array([[OUTSIDE] * 4])) == 0
