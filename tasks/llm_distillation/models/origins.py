"""What a stage reads that no other stage made: named in its facts, so that lineage ends there and not before."""

from orchestrator.task import Facts
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.text.corpus import Corpus


def origins(corpus: Corpus, *models: LanguageModel | None) -> Facts:
    """`datasets`, the fact that lineage reads: label and digest of the corpus and of each model that is given."""
    read = [corpus, *(model for model in models if model is not None)]
    return {"datasets": [{"label": one.label, "data": one.content_digest()} for one in read]}
