import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.llm_distillation.text.chat import openings, samples
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.examples import Dialogue, Plain, Turn
from tests.tasks.llm_distillation import tiny

ASK = Dialogue((Turn("user", "who?"), Turn("assistant", "me.")))
LONG = Dialogue((*ASK.turns, Turn("user", "sure?"), Turn("assistant", "yes.")))


def told(example, tokenizer, **settings):
    """The text of all tokens, and of those that are learned."""
    (sample,) = samples([example], tokenizer, Corpus(path="a.jsonl", **settings))
    assert len(sample.ids) == len(sample.learned)
    return tokenizer.decode(sample.ids), tokenizer.decode(sample.ids[sample.learned])


def test_a_plain_text_is_learned_from_end_to_end(words):
    assert told(Plain("a shard"), words) == ("<s>a shard</s>",) * 2
    assert told(Plain("one</s>two"), words)[1] == "<s>one</s>two</s>"


def test_a_prompt_is_context_of_its_response(words):
    assert told(ASK, words) == ("<s>who?\nme.</s>", "me.</s>")
    assert told(ASK, words, template="Q: {prompt} A:") == ("<s>Q: who? A:me.</s>", "me.</s>")
    assert told(ASK, words, response_only=False)[1] == "<s>who?\nme.</s>"


def test_a_chat_template_is_used_where_there_is_one(chatty, words):
    text = "<|user|>who?</s>\n<|assistant|>me.</s>\n"
    assert told(ASK, chatty) == (text, "me.</s>")
    assert told(ASK, chatty, chat=False) == told(ASK, words)
    assert told(ASK, chatty, response_only=False)[1] == text
    with pytest.raises(ValueError, match=r"the tokenizer has no chat template; .* set `chat: false`"):
        told(ASK, words, chat=True)


def test_every_message_of_the_assistant_is_learned(chatty, words):
    text, learned = told(LONG, chatty)
    assert learned == "me.</s>yes.</s>"
    assert text == chatty.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in LONG.turns], tokenize=False
    )
    with pytest.raises(ValueError, match="a chat of 4 messages needs a chat template"):
        told(LONG, words)


def test_a_template_that_rewrites_the_past_is_refused():
    forgetful = tiny.tokenizer(chat=True)
    forgetful.chat_template = "{{ messages[-1]['content'] }}{% if add_generation_prompt %}>{% endif %}"
    with pytest.raises(ValueError, match="writes earlier messages anew"):
        told(LONG, forgetful)


def test_a_template_that_refuses_is_one_clear_line():
    strict = tiny.tokenizer(chat=True)
    strict.chat_template = "{{ raise_exception('roles must\nalternate') }}"
    with pytest.raises(
        ValueError, match=r"refuses messages of user \(roles must\); correct the corpus"
    ) as caught:
        told(ASK, strict)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("example", [Plain(""), Dialogue(()), Dialogue(ASK.turns[:1])])
def test_what_has_nothing_to_learn_is_empty(words, example):
    (sample,) = samples([example], words, Corpus(path="a.jsonl"))
    assert sample.ids.size == 0


def test_generation_starts_where_the_response_does(words, chatty):
    for tokenizer in (words, chatty):
        corpus = Corpus(path="a.jsonl")
        (sample,) = samples([ASK], tokenizer, corpus)
        (opening,) = openings([ASK.opening], tokenizer, corpus)
        assert opening == sample.ids[~sample.learned].tolist()[: len(opening)]
        assert sample.learned[len(opening)]


WRITTEN = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=20)


@given(WRITTEN, WRITTEN, st.booleans())
def test_what_is_learned_is_the_response_and_nothing_else(prompt, response, chat):
    tokenizer = TOKENIZERS[chat]
    dialogue = Dialogue((Turn("user", prompt), Turn("assistant", response)))
    text, learned = told(dialogue, tokenizer)
    assert learned == f"{response}</s>"
    assert text == (
        f"<|user|>{prompt}</s>\n<|assistant|>{response}</s>\n" if chat else f"<s>{prompt}\n{response}</s>"
    )


TOKENIZERS = {False: tiny.tokenizer(), True: tiny.tokenizer(pad=True, chat=True)}


def test_batches_keep_their_order(words):
    mixed = [Plain("one"), ASK, Plain(""), Plain("two"), ASK]
    found = [words.decode(sample.ids) for sample in samples(mixed, words, Corpus(path="a.jsonl"))]
    assert found == ["<s>one</s>", "<s>who?\nme.</s>", "", "<s>two</s>", "<s>who?\nme.</s>"]


def test_a_tokenizer_that_ends_every_text_ends_none_twice(words):
    from tokenizers.processors import TemplateProcessing

    ends = tiny.tokenizer()
    ends.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    for example in (ASK, Plain("a")):
        assert told(example, ends) == told(example, words)
    assert openings([ASK.opening], ends, Corpus(path="a.jsonl")) == openings(
        [ASK.opening], words, Corpus(path="a.jsonl")
    )
