"""YAML to plain values, with the line of each: safe, no duplicate keys, `1e-5` is a number and `no` a word."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import UserError

Where = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":bool", ":timestamp"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would take for a number."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class Document:
    """Plain values and, for messages, where each of them was written."""

    def __init__(self, values: dict[str, Any], places: dict[Where, str], source: str) -> None:
        self.values = values
        self.source = source
        self._places = places

    def place(self, where: Where) -> str:
        """`file:line` (or the override) of the nearest enclosing value that was written down."""
        for length in range(len(where), 0, -1):
            if where[:length] in self._places:
                return self._places[where[:length]]
        return self.source

    def override(self, where: Where, value: Any) -> None:
        """Puts a value in the place of what was written there, and all below it."""
        _set(self.values, where, value)
        self._places = {known: place for known, place in self._places.items() if known[: len(where)] != where}
        self._places[where] = f"override {'.'.join(where)}={value}"


def read_document(path: Path, what: str = "an experiment", keys: str = "`name` and `stages`") -> Document:
    """Reads a mapping from a YAML file; UserError says file and line. `what` it is and has is for messages."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}; give the path of {what}'s YAML file") from error
    places: dict[Where, str] = {}
    return Document(_parse(text, str(path), keys, places), places, str(path))


def write_values(values: Mapping[str, Any]) -> str:
    """Plain values as YAML that `read_document` reads as the same values."""
    text: str = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, width=110, default_flow_style=None)
    return text


def parse_scalar(text: str) -> Any:
    """The value of an override, read as YAML."""
    try:
        return _parse_value(text, "override", {})
    except UserError as error:
        raise UserError(f"override value {text!r}: {error}") from error


def _parse(text: str, source: str, keys: str, places: dict[Where, str]) -> dict[str, Any]:
    values = _parse_value(text, source, places)
    if not isinstance(values, dict):
        raise UserError(f"{source}: found {type(values).__name__}, expected a mapping with {keys}")
    return values


def _parse_value(text: str, source: str, places: dict[Where, str]) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _plain(loader, node, (), source, places)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{source}{line}: not valid YAML: {error.problem}") from error
    except RecursionError:
        raise UserError(
            f"{source}: not valid YAML: nested too deeply, or an alias that holds itself"
        ) from None
    except UserError:  # ours: it has its place already
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{source}: not valid YAML: {error}") from error
    finally:
        loader.dispose()


def _plain(loader: _Loader, node: yaml.Node, where: Where, source: str, places: dict[Where, str]) -> Any:
    places[where] = f"{source}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        return {
            key: _plain(loader, value, (*where, key), source, places)
            for key, value in _unique(loader, node, where, source)
        }
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*where, str(i)), source, places) for i, item in enumerate(node.value)]
    return loader.construct_object(node)


def _unique(
    loader: _Loader, node: yaml.MappingNode, where: Where, source: str
) -> Iterator[tuple[str, yaml.Node]]:
    seen: dict[str, int] = {}
    loader.flatten_mapping(node)
    for key_node, value in node.value:
        key, line = str(loader.construct_object(key_node)), key_node.start_mark.line + 1
        if key in seen:
            name = ".".join((*where, key))
            raise UserError(f"{source}:{line}: {name}: written twice, first in line {seen[key]}; keep one")
        seen[key] = line
        yield key, value


def _set(values: dict[str, Any], where: Where, value: Any) -> None:
    *parents, last = where
    for depth, name in enumerate(parents):
        below = values.setdefault(name, {})
        if not isinstance(below, dict):
            if below is not None and not isinstance(below, str):
                raise UserError(
                    f"override {'.'.join(where)}: {'.'.join(parents[: depth + 1])} is {below!r}, not a mapping"
                )
            below = values[name] = {} if below is None else {"name": below}
        values = below
    values[last] = value
