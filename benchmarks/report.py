"""A result as one HTML page that needs nothing else: the figures, the pictures, the settings."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure

from benchmarks.plots import draw_all
from benchmarks.result import Measure, Result
from benchmarks.statistics import summary
from benchmarks.tables import heading, quantity, told

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>torpor: {{ result.kind }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
figure { margin: 1.5rem 0; overflow-x: auto; }
svg { max-width: 100%; height: auto; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 12px; }
.interrupted { color: #a00; font-weight: bold; }
</style>
</head>
<body>
<h1>torpor: {{ result.kind }}</h1>
<p>{{ heading }}</p>
{% if not result.is_complete %}
<p class="interrupted">This run was interrupted: these are the figures until then.</p>
{% endif %}
{% for note in result.notes %}
<p>{{ note }}</p>
{% endfor %}
<table>
<tr><th>measure</th><th>of</th><th>median</th><th>p95</th><th>p99</th><th>min</th><th>max</th>\
<th>n</th></tr>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% for name, picture in pictures %}
<figure aria-label="{{ name }}">{{ picture }}</figure>
{% endfor %}
<h2>How it was measured</h2>
<pre>{{ result.command }}</pre>
<pre>{{ settings }}</pre>
</body>
</html>
""")


def page(result: Result) -> str:
    settings = {
        "seed": result.seed,
        "settings": result.settings,
        "versions": result.versions,
        "machine": result.machine.model_dump(),
    }
    return _PAGE.render(
        result=result,
        heading=heading(result),
        rows=[_row(measure) for measure in result.measures],
        pictures=[(name, Markup(_svg(figure))) for name, figure in draw_all(result).items()],  # noqa: S704
        settings=json.dumps(settings, indent=1),
    )


def write_page(result: Result, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(result), encoding="utf-8")


def _row(measure: Measure) -> list[str]:
    said = summary(measure.values)
    figures = (said.median, said.p95, said.p99, said.low, said.high)
    shown = [quantity(figure, measure.unit) for figure in figures]
    return [measure.name, told(measure.labels), *shown, str(said.count)]


def _svg(figure: Figure) -> str:
    """The picture alone, without the XML head, which has no place inside a page."""
    out = StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight")
    text = out.getvalue()
    return text[text.index("<svg") :]
