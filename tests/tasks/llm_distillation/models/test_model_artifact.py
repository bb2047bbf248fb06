import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.keys import canonical
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.model_artifact import KIND, artifact_config, load_artifact, model_output
from tasks.llm_distillation.models.vocabulary import model_facts
from tests.tasks.harness import MemoryFiles
from tests.tasks.llm_distillation import tiny

IDS = torch.arange(12)[None]


def stored(output):
    """Documents as the store writes them."""
    documents = {name: json.loads(canonical(value)) for name, value in output.documents.items()}
    return MemoryFiles(replace(output, documents=documents), kind=KIND)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
def test_comes_back_as_it_was(family, tied, chatty):
    model = getattr(tiny, family)(len(chatty), tie_word_embeddings=tied)
    artifact = stored(model_output(model, chatty))
    found, tokenizer = load_artifact(artifact, "cpu")
    assert torch.equal(logits(found), logits(model))
    assert not found.training
    assert (found.get_output_embeddings().weight is found.get_input_embeddings().weight) == tied
    assert tokenizer("a shard").input_ids == chatty("a shard").input_ids
    assert (tokenizer.chat_template, tokenizer.pad_token) == (chatty.chat_template, "<pad>")
    assert model_facts(artifact_config(artifact), tokenizer) == artifact.facts


def test_an_exported_one_is_a_folder_of_hugging_face_layout(tmp_path, chatty):
    model = tiny.llama(len(chatty))
    output = model_output(model, chatty)
    save_file(output.tensors["model"], tmp_path / "model.safetensors")
    for name, document in output.documents.items():
        (tmp_path / f"{name}.json").write_bytes(canonical(document))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == chatty.chat_template
    assert torch.equal(logits(LanguageModel(name=str(tmp_path)).load("cpu")), logits(model))


def test_shared_weights_are_written_once(words):
    tensors = model_output(tiny.llama(300), words).tensors["model"]
    assert "lm_head.weight" not in tensors
    assert len({value.data_ptr() for value in tensors.values()}) == len(tensors)


def test_weights_may_come_from_elsewhere(words):
    model, other = tiny.llama(300), tiny.llama(300, seed=1)
    found, _ = load_artifact(stored(model_output(model, words, dict(other.named_parameters()))), "cpu")
    assert torch.equal(logits(found), logits(other))


def test_bf16_stays_bf16(words):
    model = tiny.llama(300).to(torch.bfloat16)
    found, _ = load_artifact(stored(model_output(model, words)), "cpu")
    assert found.dtype == torch.bfloat16
    assert torch.equal(logits(found), logits(model))
