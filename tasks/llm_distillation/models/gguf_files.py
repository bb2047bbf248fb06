"""What is taken out of a GGUF file once a machine, as that takes seconds: config, tokenizer, small ones' weights."""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.llm_distillation.models.model_files import ONE_FILE

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SMALL_MB = 256
"""Of a GGUF file whose weights are kept as well: unpacked they take up to eight times as much."""

log = logging.getLogger(__name__)


def unpacked(
    digest: str, read: Callable[[], tuple["PretrainedConfig", "PreTrainedTokenizerBase"]]
) -> Path | None:
    """The folder of Hugging Face layout with what `read` gives for the file of this digest; it may be deleted at
    any time without harm. None where nothing can be written."""
    import transformers

    cache = Path(os.environ.get("LIMBECK_CACHE") or "~/.cache/limbeck").expanduser() / "gguf"
    folder = cache / f"{digest[:32]}-{transformers.__version__}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _appear(folder, *read())
    except OSError as error:
        log.warning(
            "%s: the tokenizer of a GGUF file cannot be kept (%s); it is read each time", folder, error
        )
        return None
    return folder


def has_weights(folder: Path, file: Path, read: Callable[[], "PreTrainedModel"]) -> bool:
    """Whether the weights of a GGUF `file` lie in its `unpacked` folder too; if it is small, they are put there as
    `read` gives them. False also where nothing can be written."""
    kept = folder / ONE_FILE
    if kept.is_file() or file.stat().st_size > SMALL_MB * 2**20:
        return kept.is_file()
    from safetensors.torch import save_model

    model = read()
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / ONE_FILE
            save_model(model, str(made), {"format": "pt"})
            with made.open("rb") as written:
                os.fsync(written)
            made.replace(kept)
    except OSError as error:
        log.warning(
            "%s: the weights of a GGUF file cannot be kept (%s); they are unpacked each time", kept, error
        )
        return False
    return True


def _appear(folder: Path, *parts: Any) -> None:
    """Whole or not at all; whoever comes second leaves what is there."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        for part in parts:
            part.save_pretrained(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
