"""Models and tokenizers small enough to be made in a test, and where the real ones lie."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

from tasks.data.files import data_folder

TEXT = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def needs(name: str) -> pytest.MarkDecorator:
    """Skips where the data `name` is not on this machine."""
    return pytest.mark.skipif(not data_folder(name, None).is_dir(), reason=f"no {name} in the data folder")


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
    }  # fmt: skip
    return _random(
        LlamaConfig(vocab_size=vocabulary, bos_token_id=0, eos_token_id=1, **(usual | sizes)), seed
    )


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
    model.save_pretrained(folder)
    own_tokenizer.save_pretrained(folder)
    return folder
