"use strict";
// The run that docs/reference/page-data.md describes, read and summed up, and what all parts of the page share. Text goes
// into the page as text (textContent) and nowhere as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const color = (category) => data.colors[category];
  const K = data.categories.length, N = data.events.length;

  const bytesText = (bytes) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let index = 0, size = bytes;
    while (size >= 1024 && index < units.length - 1) { size /= 1024; index += 1; }
    return (index ? size.toFixed(2) : size) + " " + units[index];
  };
  const shareText = (part, whole) => whole ? (100 * part / whole).toFixed(part / whole < 0.1 ? 2 : 1) + " %" : "";
  const add = (parent, tag, text, className) => {
    const element = parent.appendChild(document.createElement(tag));
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const shown = (name) => name === "" ? "outside any module" : name;

  // --- events -> bytes over time: tops[k] is what categories 0 to k hold together after each event -------------------
  const blockCount = data.block_kinds.length;
  const made = new Int32Array(blockCount), ended = new Int32Array(blockCount).fill(N);
  const pairOf = new Int32Array(N), reserved = new Float64Array(N);
  const tops = Array.from({ length: K }, () => new Float64Array(N));
  {
    const held = new Float64Array(K);
    let blocks = 0;
    for (let event = 0; event < N; event++) {
      const change = data.events[event];
      if (change >= 0) {
        const block = change === 0 ? blocks++ : blocks - change;
        const [bytes, category] = data.kinds[data.block_kinds[block]];
        if (change === 0) { made[block] = event; held[category] += bytes; }
        else { ended[block] = event; held[category] -= bytes; }
      }
      let top = 0;
      for (let k = 0; k < K; k++) tops[k][event] = top += held[k];
    }
    let event = 0;
    for (let i = 0; i < data.runs.length; i += 2)
      for (let left = data.runs[i + 1]; left; left--) pairOf[event++] = data.runs[i];
    for (let i = 0; i < data.reserved.length; i += 2)
      reserved.fill(data.reserved[i + 1], data.reserved[i]);
  }
  const allocated = tops[K - 1];
  const used = data.categories.map((_, k) => k).filter((k) => data.kinds.some((kind) => kind[1] === k && kind[0]));
  const stretchAt = (event) => {
    let low = 0, high = data.stretches.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (data.stretches[middle][2] > event) high = middle; else low = middle;
    }
    return data.stretches[low];
  };
  const phaseText = (stretch) => (stretch[0] ? "step " + stretch[0] + ", " : "") + data.phases[stretch[1]];
  const moduleOf = (event) => data.names[data.pairs[pairOf[event]][0]];
  const operationOf = (event) => data.operations[data.pairs[pairOf[event]][1]];

  // The events to draw of a span: where the least and the most is allocated and the most reserved in each of so many
  // stretches. The peak of the run is always among them.
  const choose = (first, last, count) => {
    const picked = [first, last], width = Math.max(1, (last - first + 1) / count);
    if (width <= 2) { for (let event = first + 1; event < last; event++) picked.push(event); }
    else for (let begin = first; begin <= last; begin += width) {
      const from = Math.floor(begin), to = Math.min(last, Math.floor(begin + width) - 1);
      let low = from, high = from, most = from;
      for (let event = from; event <= to; event++) {
        if (allocated[event] < allocated[low]) low = event;
        if (allocated[event] > allocated[high]) high = event;
        if (reserved[event] > reserved[most]) most = event;
      }
      picked.push(low, high, most);
    }
    if (data.peak.event >= first && data.peak.event <= last) picked.push(data.peak.event);
    return [...new Set(picked)].sort((a, b) => a - b);
  };
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // What the scripts below share. `moment` is the event that is looked at: parts add to `follow` what shows it, and to
  // `draw` what depends on the width and the colours of the page.
  const page = window.inspectorPage = {
    data, byId, color, K, N, blockCount, made, ended, pairOf, reserved, tops, allocated, used, stretchAt, phaseText, moduleOf,
    operationOf, choose, style, bytesText, shareText, add, shown, moment: data.peak.event, follow: [], draw: [],
    setMoment: (event) => {
      page.moment = event;
      for (const show of page.follow) show();
    },
  };
})();
