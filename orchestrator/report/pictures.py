"""The pictures that tasks published, the last of each whole and the earlier ones small, as data URIs."""

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.subject import StageView, Subject

_THUMBNAIL, _EARLIER, _MOST_SHARDS = 220, 7, 20


@dataclass(frozen=True)
class Image:
    """One picture, ready to be shown."""

    uri: str
    width: int
    height: int
    step: int


@dataclass(frozen=True)
class Shown:
    """A picture at its last step, and how it came to be."""

    stage: str
    name: str
    last: Image
    earlier: Sequence[Image]

    @property
    def alt(self) -> str:
        at = f" at step {self.last.step}" if self.last.step else ""
        return f"{self.name.replace('_', ' ')} of {self.stage}{at}"


def pictures(subject: Subject) -> list[Shown]:
    """Those of each stage, its closing step's first."""
    found = []
    for stage in subject.stages:
        for name, steps in _previews(stage).items():
            *before, last = [step for _, step in sorted(steps.items())]
            every = -(-len(before) // _EARLIER) or 1
            earlier = [_image(subject, one, _THUMBNAIL) for one in before[::every]]
            found.append(Shown(stage.name, name, _image(subject, last), earlier))
    return found


def _previews(stage: StageView) -> dict[str, dict[int, dict[str, Any]]]:
    """Name, with the shard where there are several, to step to picture."""
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for picture in stage.manifest.previews if stage.manifest else ():
        found[picture["name"]][picture["step"]] = picture
    for shard in stage.shards if stage.planned <= _MOST_SHARDS else ():
        for picture in shard.previews:
            name = picture["name"] + (f" ({shard.label})" if stage.planned > 1 else "")
            found[name][picture["step"]] = picture
    return found


def _image(subject: Subject, picture: dict[str, Any], longest: int | None = None) -> Image:
    from PIL import Image as Pillow

    png = subject.store.read_blob(picture["blob"])
    image = Pillow.open(io.BytesIO(png))
    if longest is not None and max(image.size) > longest:
        png = _smaller(image.convert("RGB"), longest)
    uri = "data:image/png;base64," + base64.b64encode(png).decode()
    return Image(uri, *Pillow.open(io.BytesIO(png)).size, picture["step"])


def _smaller(image: Any, longest: int) -> bytes:
    image.thumbnail((longest, longest))
    small = io.BytesIO()
    image.save(small, "PNG", optimize=True)
    return small.getvalue()
