"""Language models as artifacts of kind `language_model`: exported, they are a folder that from_pretrained loads.

Files: `model` (safetensors, by parameter name, shared weights once), `config`, `tokenizer` and `tokenizer_config`
(the JSON documents of the Hugging Face layout).
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from orchestrator.task import Artifact, Output, ShardFiles
from tasks.llm_distillation.models.quiet import quiet
from tasks.llm_distillation.models.vocabulary import model_facts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

KIND = "language_model"
WEIGHTS = "model"
TOKENIZER_FILES = ("tokenizer", "tokenizer_config")


def model_output(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    weights: Mapping[str, Tensor] | None = None,
) -> Output:
    """The files and facts of an artifact. `weights` by parameter name where `model` itself does not hold them, as
    when they are spread over ranks."""
    kept = own_weights(model) if weights is None else dict(weights)
    documents = {
        "config": json.loads(model.config.to_json_string(use_diff=True)),
        **_tokenizer_documents(tokenizer),
    }
    return Output(tensors={WEIGHTS: kept}, documents=documents, facts=model_facts(model.config, tokenizer))


def shard_model(shard: ShardFiles) -> Output:
    """The `model_output` of a shard as an artifact's."""
    documents = {name: shard.document(name) for name in ("config", *TOKENIZER_FILES)}
    return Output(tensors={WEIGHTS: shard.tensors(WEIGHTS)}, documents=documents, facts=shard.facts)


def own_weights(model: "PreTrainedModel") -> dict[str, Tensor]:
    """Every parameter and lasting buffer by name; of those that share memory the first alone."""
    state, seen = {}, set[int]()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            state[name] = value.detach()
    return state


def load_artifact(artifact: Artifact, device: str) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The model, in evaluation mode, and its tokenizer."""
    config = artifact_config(artifact)
    return _assembled(config, artifact.tensors(WEIGHTS)).to(device).eval(), artifact_tokenizer(artifact)


def artifact_config(artifact: Artifact) -> "PretrainedConfig":
    """The architecture."""
    from transformers import AutoConfig

    told = dict(artifact.document("config"))
    return AutoConfig.for_model(told.pop("model_type"), **told)


def artifact_tokenizer(artifact: Artifact) -> "PreTrainedTokenizerBase":
    """The tokenizer."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder, quiet():
        for name in ("config", *TOKENIZER_FILES):
            (Path(folder) / f"{name}.json").write_text(json.dumps(artifact.document(name)))
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _assembled(config: "PretrainedConfig", weights: Mapping[str, Tensor]) -> "PreTrainedModel":
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    with quiet():
        model, told = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None, config=config, state_dict=dict(weights), dtype=config.dtype, output_loading_info=True
        )
    assert not told["missing_keys"], told["missing_keys"]
    return model


def _tokenizer_documents(tokenizer: "PreTrainedTokenizerBase") -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder, quiet():
        tokenizer.save_pretrained(folder, save_jinja_files=False)
        return {name: json.loads((Path(folder) / f"{name}.json").read_text()) for name in TOKENIZER_FILES}
