"""A language model that is asked as a model."""

import torch

from tasks.llm_distillation.distill_lm import DistillLm
from tasks.llm_distillation.models.model_artifact import KIND, model_output
from tests.tasks.harness import MemoryFiles
from tests.tasks.llm_distillation import tiny


def test_texts_are_gone_on_with_by_the_likeliest_tokens(words):
    model = tiny.llama(len(words))
    asked = DistillLm.asked(MemoryFiles(model_output(model, words), kind=KIND))
    first, second = asked(["a shard", "the"])
    assert first == asked(["a shard"])[0], "companions change nothing"
    ids = words("a shard", return_tensors="pt").input_ids
    with torch.no_grad():
        told = model.eval().generate(ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
    assert first == words.decode(told, skip_special_tokens=True)
    assert isinstance(second, str)
