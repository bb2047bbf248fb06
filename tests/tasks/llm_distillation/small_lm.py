"""Tiny language models and text for tests, written as Hugging Face folders."""

import json
from pathlib import Path

import torch

from tasks.llm_distillation.quiet import quiet

WORDS = [*"abcdefghijklmnopqrstu"]


def tokenizer(words=WORDS):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def model(seed=0, layers=2, hidden=16, logits=24, tied=True, positions=64):
    """More logits than tokens, as padded heads have."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=logits, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=positions, tie_word_embeddings=tied,
        bos_token_id=1, eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def folder(path: Path, words=WORDS, **shape) -> str:
    """A model and its tokenizer in a folder."""
    with quiet():
        model(**shape).save_pretrained(path)
        tokenizer(words).save_pretrained(path)
    return str(path)


def text(path: Path, rows=100, seed=0) -> str:
    """Sentences of five to fourteen words, one a row."""
    generator = torch.Generator().manual_seed(seed)
    with path.open("w") as file:
        for _ in range(rows):
            size = int(torch.randint(5, 15, (), generator=generator))
            places = torch.randint(0, len(WORDS), (size,), generator=generator)
            file.write(json.dumps({"text": " ".join(WORDS[place] for place in places)}) + "\n")
    return str(path)
