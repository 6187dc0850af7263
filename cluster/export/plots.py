"""Two plain plots of a run as SVG, for a dataset card."""

from collections.abc import Mapping, Sequence
from html import escape

from cluster.observe.intervals import Estimate

_WIDTH = 640
_BAR, _INK, _GRID = "#3b82f6", "#475569", "#cbd5e1"
_FONT = 'font-family="sans-serif" font-size="12"'


def histogram_svg(title: str, values: Sequence[float], bins: int = 20) -> str:
    """How often values lie where: a bar per bin, labelled with its count."""
    low, high = min(values), max(values)
    width = (high - low) / bins or 1.0
    counts = [0] * (bins if high > low else 1)
    for value in values:
        counts[min(int((value - low) / width), len(counts) - 1)] += 1
    top, height, left = 40, 160, 20
    step = (_WIDTH - 2 * left) / len(counts)
    parts: list[str] = []
    for index, count in enumerate(counts):
        tall = height * count / max(counts)
        x, y = left + index * step, top + height - tall
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" fill="{_BAR}"/>'
        )
        if count:
            parts.append(_text(x + step / 2, y - 4, f"{count:,}", "middle"))
    base = top + height
    parts.append(f'<line x1="{left}" y1="{base}" x2="{_WIDTH - left}" y2="{base}" stroke="{_INK}"/>')
    parts.append(_text(left, base + 18, f"{low:g}", "start"))
    parts.append(_text(_WIDTH - left, base + 18, f"{high:g}", "end"))
    return _svg(title, base + 30, parts)


def intervals_svg(title: str, means: Mapping[str, Estimate]) -> str:
    """Means with their intervals: a line per metric."""
    low = min(0.0, *(mean.low for mean in means.values()))
    high = max(1.0, *(mean.high for mean in means.values()))
    left, right, top, row = 200, 90, 40, 26
    scale = (_WIDTH - left - right) / (high - low)
    parts: list[str] = []
    for index, (name, mean) in enumerate(means.items()):
        y = top + index * row + 10
        start, end, middle = (left + (value - low) * scale for value in (mean.low, mean.high, mean.value))
        parts += [
            f'<line x1="{left}" y1="{y}" x2="{_WIDTH - right}" y2="{y}" stroke="{_GRID}"/>',
            f'<line x1="{start:.1f}" y1="{y}" x2="{end:.1f}" y2="{y}" stroke="{_BAR}" stroke-width="3"/>',
            f'<circle cx="{middle:.1f}" cy="{y}" r="5" fill="{_BAR}"/>',
            _text(left - 10, y + 4, name, "end"),
            _text(_WIDTH - right + 10, y + 4, f"{mean.value:.3g}", "start"),
        ]
    return _svg(title, top + len(means) * row + 10, parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}" {_FONT}>{escape(text)}</text>'


def _svg(title: str, height: float, parts: list[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            _text(20, 22, title, "start"),
            *parts,
            "</svg>\n",
        ]
    )
