"""The setting of a language model: any causal model of Hugging Face layout, or a GGUF file."""

import hashlib
from copy import deepcopy
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import model_validator

from orchestrator.task import Settings
from tasks.data.files import first_line
from tasks.llm_distillation.models.gguf_files import has_weights, unpacked
from tasks.llm_distillation.models.model_files import COMMIT, ModelFiles, absolute, find
from tasks.llm_distillation.models.quiet import quiet
from tasks.llm_distillation.models.vocabulary import check_covers, vocabulary_size

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LanguageModel(Settings):
    """A causal language model. `teacher: FOLDER` is short for `teacher: {name: FOLDER}`."""

    name: str
    """A folder of Hugging Face layout, a GGUF file or a folder that holds one; a relative path is taken from the
    working directory, else from the data folder ${LIMBECK_DATA:-~/.cache/limbeck/data}. With `revision`: a model
    of the Hugging Face hub, owner/name. Not part of any key: the content is."""
    revision: str | None = None
    """Commit of the hub, 40 hexadecimal digits. Code that comes with a model is never run."""
    gguf_file: str | None = None
    """Which GGUF file, where a folder holds several."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format that it computes in."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        given = {"name": value} if isinstance(value, str) else value
        if isinstance(given, dict) and isinstance(given.get("name"), str) and given.get("revision") is None:
            return {**given, "name": absolute(given["name"])}
        return given

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.revision is not None and not COMMIT.fullmatch(self.revision):
            raise ValueError(
                f"revision {self.revision!r}: expected the 40 hex digits of a commit, since branches and tags move; "
                "the model's page lists its commits"
            )
        return self

    @property
    def label(self) -> str:
        """A short name for tables: the last part of `name`."""
        return self.name.rstrip("/").rpartition("/")[2].removesuffix(".gguf")

    def content_digest(self) -> str:
        """64 hexadecimal digits that depend on weights, config, tokenizer and dtype, not on where they lie.

        Raises ValueError for what is missing or unreadable, ConnectionError where the hub cannot be reached.
        """
        return hashlib.sha256(f"{self.files().digest()} {self.dtype}".encode()).hexdigest()

    def files(self) -> ModelFiles:
        """Where its files lie, fetched where the hub has them. Raises as `content_digest`."""
        return find(self.name, self.revision, self.gguf_file)

    def config(self) -> "PretrainedConfig":
        """Its architecture, without the weights; a copy of your own. Raises as `content_digest`."""
        return deepcopy(self._described()[0])

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Its tokenizer, read once a process; not to be changed. Raises as `content_digest`."""
        return self._described()[1]

    def _described(self) -> "tuple[PretrainedConfig, PreTrainedTokenizerBase]":
        files = self.files()
        return _described(files, files.digest())

    @property
    def vocabulary(self) -> int:
        """Number of token ids of the TOKENIZER, added tokens included; logits beyond it are padding, to be cut."""
        return vocabulary_size(self.tokenizer())

    def load(self, device: str) -> "PreTrainedModel":
        """The model on `device` in its dtype, in evaluation mode. Raises ValueError where weights are missing or do
        not fit, or the vocabulary is smaller than the tokenizer's; else as `content_digest`."""
        check_covers(self.label, self.config(), self.tokenizer())
        files, dtype = self.files(), DTYPES[self.dtype]
        if files.gguf is not None:
            opened = _opened(files, files.digest())
            gguf = files.folder / files.gguf
            if opened != files and has_weights(opened.folder, gguf, lambda: self._read(files, torch.float32)):
                return self._read(opened, dtype).to(device).eval()
        return self._read(files, dtype).to(device).eval()

    def _read(self, files: ModelFiles, dtype: torch.dtype) -> "PreTrainedModel":
        options = {"config": self.config(), "dtype": dtype, "output_loading_info": True}
        if files.gguf is not None:  # plain weights, which can be trained, and an export that says so
            from transformers import GgufConfig

            options["quantization_config"] = GgufConfig(dequantize=True)
        model, told = _pretrained(files, "AutoModelForCausalLM", **options)
        wrong = [*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])]
        if wrong:
            raise ValueError(
                f"model {self.name}: its files lack {len(wrong)} of its weights, or hold them in other shapes, such as "
                f"{wrong[0]}; expected all: fetch it again"
            )
        made: PreTrainedModel = model
        return made


def _pretrained(files: ModelFiles, auto_class: str, **options: Any) -> Any:
    """What transformers reads from `files`, offline. ValueError in one line for whatever it cannot read."""
    import transformers

    if files.gguf is not None:
        options["gguf_file"] = files.gguf
    with quiet():
        try:
            return getattr(transformers, auto_class).from_pretrained(
                files.folder, local_files_only=True, trust_remote_code=False, **options
            )
        except Exception as error:
            what = {"AutoConfig": "config", "AutoTokenizer": "tokenizer"}.get(
                auto_class, "causal language model"
            )
            raise ValueError(
                f"{files.folder / (files.gguf or '')}: cannot be read as a {what} ({first_line(error)}); check the "
                "files, and that the installed transformers knows this architecture"
            ) from error


@lru_cache(maxsize=8)
def _described(files: ModelFiles, digest: str) -> "tuple[PretrainedConfig, PreTrainedTokenizerBase]":
    """Config and tokenizer."""
    return _parts(_opened(files, digest))


def _parts(files: ModelFiles) -> "tuple[PretrainedConfig, PreTrainedTokenizerBase]":
    return _pretrained(files, "AutoConfig"), _pretrained(files, "AutoTokenizer")


def _opened(files: ModelFiles, digest: str) -> ModelFiles:
    """Where config and tokenizer are read from: out of a GGUF file they are taken once a machine."""
    if files.gguf is None:
        return files
    folder = unpacked(digest, lambda: _parts(files))
    return files if folder is None else ModelFiles(folder, None)
