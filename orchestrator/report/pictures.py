"""The pictures that tasks published, the last of each whole and the earlier ones small, as data URIs."""

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.report.subject import StageView, Subject

if TYPE_CHECKING:
    from PIL.Image import Image as Pillow

_THUMBNAIL, _EARLIER, _MOST_SHARDS = 240, 7, 20
_WIDE = 2.0
"""Width over height from which on a picture is shown wide: its thumbnail is twice as long."""
_WHITE, _MUCH = 245, 0.4
"""Grey level from which on a pixel is paper, and the share of paper that makes a drawing."""


@dataclass(frozen=True)
class Image:
    """One picture, ready to be shown."""

    uri: str
    width: int
    height: int
    step: int
    drawing: bool
    """Dark lines on white paper, to be turned round where the page is dark."""


@dataclass(frozen=True)
class Shown:
    """A picture at its last step, and how it came to be."""

    stage: str
    name: str
    last: Image
    earlier: Sequence[Image]

    @property
    def wide(self) -> bool:
        return self.last.width >= _WIDE * self.last.height

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
            every, whole = -(-len(before) // _EARLIER) or 1, _image(subject, last)
            longest = 2 * _THUMBNAIL if whole.width >= _WIDE * whole.height else _THUMBNAIL
            earlier = [_image(subject, one, longest) for one in before[::every]]
            found.append(Shown(stage.name, name, whole, earlier))
    return found


def _previews(stage: StageView) -> dict[str, dict[int, dict[str, Any]]]:
    """Name, with the shard where there are several, to step to picture."""
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for picture in stage.manifest.previews if stage.manifest else ():
        found[picture["name"]][picture["step"]] = picture
    for shard in stage.shards if stage.planned <= _MOST_SHARDS else ():
        for picture in shard.previews:
            name = picture["name"] + (f" ({stage.called(shard)})" if stage.planned > 1 else "")
            found[name][picture["step"]] = picture
    return found


def _image(subject: Subject, picture: dict[str, Any], longest: int | None = None) -> Image:
    from PIL.Image import open as opened

    png = subject.store.read_blob(picture["blob"])
    image = opened(io.BytesIO(png))
    if longest is not None and max(image.size) > longest:
        png = _smaller(image.convert("RGB"), longest)
    uri = "data:image/png;base64," + base64.b64encode(png).decode()
    return Image(uri, *opened(io.BytesIO(png)).size, picture["step"], is_drawing(image))


def is_drawing(image: "Pillow") -> bool:
    """Whether the whole edge of a picture, and much of it, is white as paper."""
    grey = image.convert("L")
    width, height = grey.size
    edges = [grey.crop(box) for box in ((0, 0, width, 1), (0, height - 1, width, height),
                                        (0, 0, 1, height), (width - 1, 0, width, height))]  # fmt: skip
    if any(any(edge.histogram()[:_WHITE]) for edge in edges):
        return False
    return sum(grey.histogram()[_WHITE:]) >= _MUCH * width * height


def _smaller(image: Any, longest: int) -> bytes:
    image.thumbnail((longest, longest))
    small = io.BytesIO()
    image.save(small, "PNG", optimize=True)
    return small.getvalue()
