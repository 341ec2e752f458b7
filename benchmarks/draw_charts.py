"""How large the chart libraries are, and how long each takes to show one timeline: what docs/explain/see.md quotes.

Run by hand, with playwright and a Chromium, in a folder of unpacked npm packages:

    for package in uplot @observablehq/plot d3 plotly.js-basic-dist-min vega vega-lite; do npm pack $package; done
    for file in *.tgz; do mkdir ${file%.tgz} && tar -xzf $file -C ${file%.tgz}; done
    python benchmarks/draw_charts.py FOLDER

Each draws the same picture: eleven stacked categories and the reserved line at 3,000 moments, 1,100 pixels wide. The
time is from before the library's script is read to after the frame is painted; the median of five fresh pages.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_DATA = """
const N = 3000, K = 11, xs = Array.from({length: N}, (_, i) => i), parts = [];
for (let k = 0; k < K; k++) parts.push(xs.map(i => 10 + k + 8 * Math.abs(Math.sin(i / (40 + 9 * k)))));
const tops = []; let sum = xs.map(() => 0);
for (const part of parts) { sum = sum.map((s, i) => s + part[i]); tops.push(sum); }
const reserved = xs.map(() => 320);
"""
_COLOR = "`hsl(${k * 33} 60% 50%)`"
# Which files of its package each library is, and what draws the picture into `box`.
_LIBRARIES: dict[str, tuple[tuple[str, ...], str]] = {
    "uPlot": (
        ("uplot-*/package/dist/uPlot.iife.min.js",),
        "const series = [...tops].reverse().map((_, j) => {const k = K - 1 - j; return "
        f"{{fill: {_COLOR}, width: 0, points: {{show: false}}}}}});"
        "new uPlot({width: 1100, height: 420, scales: {x: {time: false}}, series: [{}, ...series, {stroke: 'black'}]},"
        "[xs, ...[...tops].reverse(), reserved], box);",
    ),
    "Observable Plot with d3": (
        ("d3-*/package/dist/d3.min.js", "observablehq-plot-*/package/dist/plot.umd.min.js"),
        "const rows = parts.flatMap((p, k) => p.map((y, i) => ({x: i, y, k})));"
        "box.append(Plot.plot({width: 1100, height: 420, marks: [Plot.areaY(rows, {x: 'x', y: 'y', fill: 'k'}),"
        "Plot.line(reserved.map((y, i) => [i, y]))]}));",
    ),
    "plotly basic": (
        ("plotly.js-basic-dist-min-*/package/plotly-basic.min.js",),
        "Plotly.newPlot(box, [...parts.map(y => ({x: xs, y, stackgroup: 'one', line: {width: 0}})),"
        "{x: xs, y: reserved}], {width: 1100, height: 420});",
    ),
    "vega with vega-lite": (
        ("vega-6*/package/build/vega.min.js", "vega-lite-*/package/build/vega-lite.min.js"),
        "const rows = parts.flatMap((p, k) => p.map((y, i) => ({x: i, y, k})));"
        "const spec = vegaLite.compile({data: {values: rows}, width: 1100, height: 420, mark: 'area', encoding: {"
        "x: {field: 'x', type: 'quantitative'}, y: {field: 'y', type: 'quantitative', stack: true},"
        "color: {field: 'k', type: 'nominal'}}}).spec;"
        "await new vega.View(vega.parse(spec), {renderer: 'canvas', container: box}).runAsync();",
    ),
}


def main(folder: Path) -> None:
    """Print a line for each library."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, (patterns, draw) in _LIBRARIES.items():
            sources = [next(folder.glob(pattern)).read_text() for pattern in patterns]
            times = []
            for _ in range(5):
                page = browser.new_page()
                page.set_content("<div id=box></div>")
                program = f"""async () => {{
                    const box = document.getElementById('box'); {_DATA}
                    const begun = performance.now();
                    for (const source of {json.dumps(sources)}) (0, eval)(source);
                    {draw}
                    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
                    return performance.now() - begun;
                }}"""
                times.append(page.evaluate(program))
                page.close()
            size = sum(len(source.encode()) for source in sources)
            print(f"{name:24} {size:>9,} bytes  {statistics.median(times):6.0f} ms")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
