"""`limbeck init`: a first experiment to start from."""

import shlex
from importlib.resources import files
from pathlib import Path

from orchestrator.console import Console
from orchestrator.errors import UserError

_SIGN = "FILE"


def init(path: Path, as_json: bool) -> None:
    """Writes it, and says what to type next. Raises UserError where something is there already."""
    console = Console(as_json=as_json)
    text = files("tasks").joinpath("first.yaml").read_text(encoding="utf-8")
    name = shlex.quote(str(path))
    head, rest = text.split("name:", 1)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(head.replace(f" {_SIGN} ", f" {name} ") + "name:" + rest)
    except FileExistsError:
        raise UserError(f"{path} is there already; name another file: limbeck init FILE") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    if as_json:
        return console.answer({"path": str(path)})
    console.print(f"wrote {path}")
    return console.print(f"next      limbeck plan {name}, then limbeck run {name}")
