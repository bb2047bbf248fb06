"""Tags on artifacts: empty objects `tags/<artifact>/<tag>`. A tagged artifact is spared by collection."""

import re
from collections import defaultdict
from collections.abc import Iterable

from orchestrator.errors import UserError
from orchestrator.store.bytes import Bytes

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


class Tags:
    """The part of a Store that knows tags."""

    bytes: Bytes

    def tag(self, artifact: str, tags: Iterable[str]) -> None:
        """Puts tags on an artifact's id. Raises UserError for one that is no plain name."""
        for path in [_path(artifact, tag) for tag in tags]:
            self.bytes.put(path, b"")

    def untag(self, artifact: str, tags: Iterable[str]) -> None:
        """Takes tags off; nothing to do where it has them not."""
        for path in [_path(artifact, tag) for tag in tags]:
            self.bytes.delete(path)

    def tags(self) -> dict[str, list[str]]:
        """Id of each artifact that has tags to these, in alphabetical order."""
        found: dict[str, list[str]] = defaultdict(list)
        for entry in self.bytes.list("tags"):
            _, artifact, tag = entry.path.split("/")
            found[artifact].append(tag)
        return {artifact: sorted(tags) for artifact, tags in found.items()}


def _path(artifact: str, tag: str) -> str:
    if _TAG.fullmatch(tag):
        return f"tags/{artifact}/{tag}"
    raise UserError(f"tag {tag!r:.100}: expected up to 100 ASCII letters, digits and _.+-")
