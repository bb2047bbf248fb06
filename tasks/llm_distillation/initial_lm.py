"""A language model before any training: a tokenizer learnt from a corpus, and random weights of any size.

Source of the architecture: Llama, Touvron et al. 2023.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from orchestrator.task import Artifact, Context, Facts, Needs, Output, Settings, Shard, ShardFiles, Task
from tasks.llm_distillation.models.learnt_tokenizer import LearntTokenizer
from tasks.llm_distillation.models.model_artifact import KIND, model_output, shard_model
from tasks.llm_distillation.models.origins import origins
from tasks.llm_distillation.models.student_model import parameter_count, random_model
from tasks.llm_distillation.models.vocabulary import model_facts

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerBase


class InitialConfig(Settings):
    """Settings of initial_lm."""

    tokenizer: LearntTokenizer
    """How text becomes tokens."""
    layers: int = Field(gt=0)
    """Number of layers."""
    hidden_size: int = Field(gt=0)
    """Width of the hidden states; a multiple of twice `heads`."""
    intermediate_size: int | None = Field(default=None, gt=0)
    """Width inside a layer; none: 8/3 of the hidden size, up to a multiple of 8."""
    heads: int = Field(gt=0)
    """Attention heads."""
    kv_heads: int | None = Field(default=None, gt=0)
    """Heads of keys and values; none: as many as `heads`."""
    positions: int = Field(default=2048, gt=1)
    """The longest sequence, in tokens."""
    share_embedding: bool = True
    """Whether the embedding is the head too."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size}: expected a multiple of {2 * self.heads}, twice the heads"
            )
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(
                f"heads {self.heads} are no multiple of {self.kv_heads} kv_heads; set `kv_heads`"
            )
        return self


class InitialLm(Task[InitialConfig]):
    """Makes an untrained language model, for distill_lm to train and to take students from. One shard."""

    version: ClassVar[int] = 1
    makes: ClassVar[str] = KIND
    Config: ClassVar[type[Settings]] = InitialConfig
    needs: ClassVar[Needs] = Needs(memory_gb=2.0)

    @classmethod
    def describe(cls, config: InitialConfig, inputs: Mapping[str, Facts]) -> Facts:
        tokenizer = config.tokenizer.tokenizer()
        made = architecture(config, tokenizer)
        return {
            **model_facts(made, tokenizer),
            "parameters": parameter_count(made),
            **origins(config.tokenizer.corpus),
        }

    @classmethod
    def shards(cls, config: InitialConfig, facts: Facts) -> Sequence[Shard]:
        return [Shard({"model": 0}, disk_bytes=4 * facts["parameters"])]

    def __init__(
        self, config: InitialConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config = config
        self.tokenizer = config.tokenizer.tokenizer()

    def compute(self, shard: Shard, context: Context) -> Output:
        made = architecture(self.config, self.tokenizer)
        return model_output(random_model(made, context.seed("weights")), self.tokenizer)

    @classmethod
    def close(
        cls,
        config: InitialConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        return shard_model(shards[0])


def architecture(config: InitialConfig, tokenizer: "PreTrainedTokenizerBase") -> "LlamaConfig":
    """A Llama of these sizes for this tokenizer."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size or -(-config.hidden_size // 3) * 8,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads or config.heads,
        max_position_embeddings=config.positions,
        tie_word_embeddings=config.share_embedding,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        dtype="float32",
    )
