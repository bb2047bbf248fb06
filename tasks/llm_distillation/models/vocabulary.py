"""Vocabularies: which token an id means, whether two models mean the same, and what they can hold."""

import hashlib
import json
from typing import TYPE_CHECKING

from orchestrator.task import Facts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """One more than the largest token id, added tokens included."""
    return max(tokenizer.get_vocab().values()) + 1


def padding_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """What fills a sequence: the pad token, else the end token, else 0. It is masked wherever it stands."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)


def tokenizer_facts(tokenizer: "PreTrainedTokenizerBase") -> Facts:
    """What tells tokenizers apart: `digest` of (token, id) pairs, `size`, ids of the special tokens or None."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    return {
        "digest": hashlib.sha256(json.dumps(pairs).encode()).hexdigest(),
        "size": vocabulary_size(tokenizer),
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
    }


def model_facts(config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> Facts:
    """What an artifact of kind `language_model` says of itself, and a LanguageModel of its files."""
    return {
        "architecture": config.model_type,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "positions": positions(config),
        "logits": config.vocab_size,
        "tokenizer": tokenizer_facts(tokenizer),
    }


def positions(config: "PretrainedConfig") -> int | None:
    """The longest sequence that the model was made for, in tokens; None where it knows no limit."""
    return getattr(config, "max_position_embeddings", None)


def check_same_tokens(first: Facts, second: Facts, names: tuple[str, str]) -> None:
    """ValueError unless the same ids mean the same tokens; of two `model_facts`, by their names."""
    one, other = first["tokenizer"], second["tokenizer"]
    if one["digest"] != other["digest"]:
        raise ValueError(
            f"tokenizers: {names[0]} ({one['size']} tokens, {one['digest'][:8]}) and {names[1]} ({other['size']} "
            f"tokens, {other['digest'][:8]}) differ; expected the same tokens under the same ids: take models of one "
            "family"
        )


def check_covers(name: str, config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> None:
    """ValueError where the model has fewer logits than its tokenizer has tokens."""
    size = vocabulary_size(tokenizer)
    if config.vocab_size < size:
        raise ValueError(
            f"model {name}: has {config.vocab_size} logits for the {size} tokens of its tokenizer; expected at "
            "least as many: resize its embedding, or take the tokenizer that it was trained with"
        )


def check_length(name: str, length: int, limit: int | None) -> None:
    """ValueError where sequences of `length` tokens are longer than the model's `limit`."""
    if limit is not None and length > limit:
        raise ValueError(f"length {length}: model {name} takes at most {limit} tokens; lower `length`")
