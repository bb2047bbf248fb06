"""Config and tokenizer of a GGUF file, read once a machine: taking them out of the file takes seconds."""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

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
