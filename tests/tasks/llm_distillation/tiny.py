"""Models, tokenizers and texts small enough to be made in a test, and where the real ones lie.

There are two sizes: a tokenizer of bytes for text as it is, and one of single letters as words, whose models learn
something in a few steps (`word_...`).
"""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

from tasks.data.files import data_folder
from tasks.llm_distillation.models.quiet import quiet
from tasks.llm_distillation.writing.vllm_client import vllm_python

TEXT = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

WIDE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
"""Heads of 32 numbers, the fewest that vLLM's kernels for a CPU take."""


def needs(name: str) -> pytest.MarkDecorator:
    """Skips where the data `name` is not on this machine."""
    return pytest.mark.skipif(not data_folder(name, None).is_dir(), reason=f"no {name} in the data folder")


def needs_vllm(test):
    """A slow test that skips where no vLLM is at hand."""
    try:
        vllm_python()
    except ValueError as error:
        test = pytest.mark.skip(reason=str(error))(test)
    return pytest.mark.slow(test)


def tokenizer(size: int = 300, *, pad: bool = False, chat: bool = False, text: str = TEXT):
    """Byte-level BPE of at most `size` tokens that puts <s> before a text; id 0 is <s>, id 1 </s>."""
    special = ["<s>", "</s>", *(["<pad>"] if pad else []), "<|user|>", "<|assistant|>"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([text], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    if pad:
        fast.pad_token = "<pad>"
    if chat:
        fast.chat_template = CHAT
    return fast


def llama(vocabulary: int, seed: int = 0, **sizes):
    """A Llama of two layers and width 32, with random weights."""
    usual = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": True,
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    return _random(LlamaConfig(vocab_size=vocabulary, **(usual | sizes)), seed)


def gpt2(vocabulary: int, seed: int = 0, **sizes):
    """A GPT-2 of two layers and width 32, with random weights."""
    usual = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    return _random(GPT2Config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=1, **(usual | sizes)), seed)


def _random(config, seed: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def saved(folder: Path, model, own_tokenizer) -> Path:
    """Both in one folder of Hugging Face layout."""
    with quiet():
        model.save_pretrained(folder)
        own_tokenizer.save_pretrained(folder)
    return folder


WORDS = [*"abcdefghijklmnopqrstu"]


def word_tokenizer(words=WORDS):
    """One token a word, words apart by spaces; ids 0 to 2 are <unk>, <s> and </s>."""
    known = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def word_llama(seed=0, layers=2, logits=24, tied=True):
    """A Llama of width 16 for these words, sure of itself; more logits than tokens, as padded heads have."""
    return llama(
        logits, seed, hidden_size=16, intermediate_size=32, num_hidden_layers=layers, tie_word_embeddings=tied,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip


def word_folder(path: Path, words=WORDS, **shape) -> str:
    """A `word_llama` and its tokenizer in a folder."""
    return str(saved(path, word_llama(**shape), word_tokenizer(words)))


def word_case(place: Path, **settings) -> dict:
    """Settings of distill_lm: a teacher of four layers, its two-layer student and a corpus, in this folder."""
    return {
        "teacher": word_folder(place / "teacher", layers=4),
        "student": {"layers": 2},
        "corpus": word_texts(place / "corpus.jsonl"),
        "length": 16,
        "batch": 6,
        "micro_batch": 2,
        "lr": 0.01,
        "held_out": 5,
        "evaluate_every": 2,
        **settings,
    }


def word_texts(path: Path, rows=100, seed=0) -> str:
    """A file of sentences of five to fourteen words, one a row."""
    generator = torch.Generator().manual_seed(seed)
    with path.open("w") as file:
        for _ in range(rows):
            size = int(torch.randint(5, 15, (), generator=generator))
            places = torch.randint(0, len(WORDS), (size,), generator=generator)
            file.write(json.dumps({"text": " ".join(WORDS[place] for place in places)}) + "\n")
    return str(path)
