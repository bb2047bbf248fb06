"""Finding the files of a language model: a folder, a GGUF file, or a pinned revision of the Hugging Face hub."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tasks.data.digest import digest_of_files
from tasks.data.files import data_folder, first_line, reading
from tasks.llm_distillation.models.quiet import quiet

EXPECTED = "a folder with config.json, *.safetensors and a tokenizer, or a GGUF file"
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip
COMMIT = re.compile(r"[0-9a-f]{40}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFiles:
    """Where the files of a model lie."""

    folder: Path
    gguf: str | None
    """Name of the GGUF file, which holds all; None for the Hugging Face layout."""

    def weights(self) -> list[str]:
        """Names of the files of weights."""
        if self.gguf is not None:
            return [self.gguf]
        if (self.folder / ONE_FILE).is_file():
            return [ONE_FILE]
        index = self.folder / INDEX
        with reading(index, "the index of the safetensors files"):
            return sorted(set(json.loads(index.read_text())["weight_map"].values()))

    def digest(self) -> str:
        """Of weights, config and tokenizer files, 64 hexadecimal digits; the same wherever they lie."""
        names = self.weights()
        if self.gguf is None:
            names = ["config.json", *names, *(name for name in TOKENIZER if (self.folder / name).is_file())]
        labels = ["gguf"] if self.gguf is not None else names
        paths = [self.folder / name for name in names]
        return digest_of_files("language_model", dict(zip(labels, paths, strict=True)))


def absolute(name: str) -> str:
    """`name` from the working directory where it is there, else as it was: a worker may run in another folder."""
    here = Path(name).expanduser().absolute()
    return str(here) if here.exists() else name


def find(name: str, revision: str | None, gguf_file: str | None) -> ModelFiles:
    """The files of the model `name`: with a `revision` those of the hub, else of a folder or GGUF file here or in
    the data folder. Raises ValueError, and ConnectionError where the hub cannot be reached."""
    if revision is not None:
        return _checked(_from_hub(name, revision, gguf_file), gguf_file)
    here = Path(name).expanduser().absolute()
    places = list(dict.fromkeys([here, data_folder(name, None).absolute()]))
    for place in places:
        if place.is_file() and place.suffix == ".gguf":
            return ModelFiles(place.parent, place.name)
        if place.is_dir():
            return _checked(place, gguf_file)
    raise ValueError(
        f"model {name}: found neither {' nor '.join(map(str, places))}; expected {EXPECTED}; for a model of the "
        "Hugging Face hub add its `revision`, the 40 hex digits of a commit"
    )


def _checked(folder: Path, gguf_file: str | None) -> ModelFiles:
    if gguf_file is not None:
        if not (folder / gguf_file).is_file():
            raise ValueError(f"{folder}: there is no file {gguf_file}; correct `gguf_file`")
        return ModelFiles(folder, gguf_file)
    if (folder / "config.json").is_file():
        if not ((folder / ONE_FILE).is_file() or (folder / INDEX).is_file()):
            raise ValueError(
                f"{folder}: holds config.json, but neither {ONE_FILE} nor {INDEX}; pickled weights are not read: "
                "convert them with save_pretrained"
            )
        return ModelFiles(folder, None)
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return ModelFiles(folder, ggufs[0])
    what = (
        f"{len(ggufs)} GGUF files ({', '.join(ggufs[:4])})"
        if ggufs
        else "neither config.json nor a GGUF file"
    )
    advice = "name one as `gguf_file`" if ggufs else "correct `name`"
    raise ValueError(f"{folder}: holds {what}; expected {EXPECTED}: {advice}")


@lru_cache(maxsize=8)
def _from_hub(name: str, revision: str, gguf_file: str | None) -> Path:
    """The folder of a commit, asked for once a process: it never changes."""
    from huggingface_hub import snapshot_download

    wanted = [gguf_file] if gguf_file is not None else ["config.json", "*.safetensors", INDEX, *TOKENIZER]

    def fetch() -> Path:
        log.info("model %s: looking for commit %s here and on the hub", name, revision[:12])
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))

    return _fetched(name, revision, fetch)


def _fetched(name: str, revision: str, fetch: Callable[[], Path]) -> Path:
    """What `fetch` gives; whatever fails becomes one clear line."""
    from huggingface_hub import errors

    where = f"model {name} at {revision[:12]}"
    try:
        with quiet():
            return fetch()
    except errors.HFValidationError as error:
        raise ValueError(
            f"{where}: found no name of the hub, expected owner/name; leave `revision` out for a folder of yours"
        ) from error
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{where}: the hub asks for consent; accept its terms on its page and set HF_TOKEN, or name a folder"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ValueError(
            f"{where}: the hub has no such model or revision, or hides it; correct `name` or `revision`, or set "
            "HF_TOKEN"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        raise ConnectionError(
            f"{where}: not on this machine, and the hub cannot be reached ({first_line(error)}); connect, unset "
            "HF_HUB_OFFLINE, or name a folder that holds the model"
        ) from error
