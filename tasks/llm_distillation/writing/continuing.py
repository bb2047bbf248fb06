"""A language model that is asked as a model: texts in, what it writes after them out."""

from collections.abc import Callable, Sequence

from orchestrator.task import Artifact
from tasks.llm_distillation.models.model_artifact import load_artifact
from tasks.llm_distillation.models.vocabulary import padding_id, vocabulary_size
from tasks.llm_distillation.writing.generation import Sampling, write

LIKELIEST = Sampling(new_tokens=64, temperature=0.0)


def writer(artifact: Artifact) -> Callable[[Sequence[str]], list[str]]:
    """The model of an artifact, on the CPU: the likeliest next 64 tokens of each text, or fewer where it ends it.

    Texts are read as they stand, without a chat template; one without a token begins at the padding token.
    """
    model, tokenizer = load_artifact(artifact, "cpu")

    def answer(texts: Sequence[str]) -> list[str]:
        prompts = [ids or [padding_id(tokenizer)] for ids in tokenizer(list(texts))["input_ids"]]
        ids = write(
            model, prompts, [0] * len(prompts), LIKELIEST, vocabulary=vocabulary_size(tokenizer),
            end=tokenizer.eos_token_id,
        )  # fmt: skip
        return list(tokenizer.batch_decode(ids, skip_special_tokens=True))

    return answer
