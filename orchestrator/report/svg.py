"""SVG as markup whose every text and value is escaped. Pure."""

from collections.abc import Iterable

from markupsafe import Markup, escape


def tag(name: str, *content: str | Markup, **values: str | float) -> Markup:
    """An element; `class_` is its class, other underscores in names are dashes."""
    told = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _shown(value))
        for key, value in values.items()
    )
    inner = Markup("").join(escape(part) for part in content)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), told, inner)


def picture(width: float, height: float, label: str, parts: Iterable[Markup]) -> Markup:
    """A drawing of so many units, described for those who do not see it."""
    return tag(
        "svg", tag("title", label), *parts, viewBox=f"0 0 {width:g} {height:g}", width=width, height=height,
        role="img", aria_label=label, xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip


def _shown(value: str | float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
