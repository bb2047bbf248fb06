import pytest

from tests.tasks.llm_distillation import tiny


@pytest.fixture(scope="session")
def words():
    """A tokenizer without a pad token and without a chat template."""
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def chatty():
    """One with both."""
    return tiny.tokenizer(pad=True, chat=True)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory, words):
    """The folder of a random Llama of two layers, with 8 logits more than the tokenizer has tokens."""
    model = tiny.llama(len(words) + 8)
    return tiny.saved(tmp_path_factory.mktemp("tiny-llama"), model, words)
