"use strict";
// Draws what docs/reference/page-data.md describes. Text goes into the page as text (textContent) and nowhere as markup.
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
    let found = data.stretches[0];
    for (const stretch of data.stretches) { if (stretch[2] > event) break; found = stretch; }
    return found;
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
  window.inspectorPage = { allocated, reserved, choose };

  // --- the timeline ---------------------------------------------------------------------------------------------------
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const box = byId("timeline");
  const steps = [...new Set(data.stretches.map((stretch) => stretch[0]))].filter((step) => step > 0);
  const spanOf = (step) => {
    const begin = data.stretches.find((stretch) => stretch[0] === step)[2];
    const next = data.stretches.find((stretch) => stretch[0] > step);
    return [Math.max(0, begin - 1), next ? next[2] - 1 : N - 1];
  };
  const peakStep = stretchAt(data.peak.event)[0];
  let span = steps.includes(peakStep) ? spanOf(peakStep) : [0, N - 1], moment = data.peak.event, plot = null, events = [];
  const most = Math.max(data.peak_reserved_bytes, data.peak.bytes);
  // A limit far above everything would flatten the rest; the nearest one is shown if it leaves half of the height.
  let limits = data.limits.filter((limit) => limit.bytes <= 2 * most).sort((a, b) => a.bytes - b.bytes);
  if (data.limits.length > 4) {  // the common cards, which nobody named: the next smaller one and the next larger one
    const above = limits.findIndex((limit) => limit.bytes >= most);
    limits = above < 0 ? limits.slice(-1) : limits.slice(Math.max(0, above - 1), above + 1);
  }
  const beyond = data.limits.filter((limit) => !limits.includes(limit));
  if (beyond.length && data.limits.length <= 4)
    byId("beyond").textContent = "Far above this picture: " +
      beyond.map((limit) => limit.gpu + " has " + bytesText(limit.bytes)).join(", ") + ". ";
  const ceiling = 1.06 * Math.max(most, ...limits.map((limit) => limit.bytes));
  const rows = [...used].reverse();
  const columns = (first, last) => {
    events = choose(first, last, Math.max(200, box.clientWidth));
    return [events, ...rows.map((k) => events.map((event) => tops[k][event])), events.map((event) => reserved[event])];
  };
  const height = () => Math.round(Math.min(380, Math.max(230, window.innerHeight * 0.42)));

  const drawBands = (u) => {
    const { ctx, bbox } = u;
    ctx.save();
    data.stretches.forEach((stretch, index) => {
      const next = data.stretches[index + 1];
      const left = Math.max(bbox.left, u.valToPos(stretch[2], "x", true));
      const right = Math.min(bbox.left + bbox.width, u.valToPos(next ? next[2] : N, "x", true));
      if (right <= left) return;
      if (index % 2) { ctx.fillStyle = style("--band"); ctx.fillRect(left, bbox.top, right - left, bbox.height); }
    });
    ctx.restore();
  };
  const drawMarks = (u) => {
    const { ctx, bbox } = u, ratio = devicePixelRatio, ink = style("--ink"), quiet = style("--quiet");
    const right = bbox.left + bbox.width, size = 11.5 * ratio;
    const label = (text, x, y, align, fill) => {
      ctx.font = size + "px system-ui, sans-serif"; ctx.textAlign = align;
      ctx.strokeStyle = style("--paper"); ctx.lineWidth = 3 * ratio; ctx.lineJoin = "round"; ctx.setLineDash([]);
      ctx.strokeText(text, x, y); ctx.fillStyle = fill; ctx.fillText(text, x, y);
    };
    const rule = (x0, y0, x1, y1, stroke, width, dash) => {
      ctx.strokeStyle = stroke; ctx.lineWidth = width * ratio; ctx.setLineDash(dash.map((part) => part * ratio));
      ctx.beginPath(); ctx.moveTo(x0, y0); ctx.lineTo(x1, y1); ctx.stroke();
    };
    ctx.save();
    const first = Math.max(0, Math.ceil(u.scales.x.min)), last = Math.min(N - 1, Math.floor(u.scales.x.max));
    const atLeft = reserved[first] > reserved[last] / 2, end = atLeft ? first : last;
    label("reserved " + bytesText(reserved[end]), atLeft ? bbox.left + 5 * ratio : right - 5 * ratio,
      u.valToPos(reserved[end], "y", true) - 5 * ratio, atLeft ? "left" : "right", ink);
    let before = -Infinity;
    for (const limit of limits) {
      const y = u.valToPos(limit.bytes, "y", true);
      rule(bbox.left, y, right, y, style("--no"), 1.5, [7, 4]);
      if (Math.abs(y - before) > 14 * ratio) {
        label(limit.gpu + " has " + bytesText(limit.bytes), right - 4 * ratio, y + 13 * ratio, "right", style("--no"));
        before = y;
      }
    }
    data.stretches.forEach((stretch, index) => {
      const next = data.stretches[index + 1], to = next ? next[2] : N;
      const x0 = Math.max(bbox.left, u.valToPos(stretch[2], "x", true)), x1 = Math.min(right, u.valToPos(to, "x", true));
      if (x1 <= x0) return;
      if (x0 > bbox.left) rule(x0, bbox.top, x0, bbox.top + bbox.height, quiet, 0.6, [2, 3]);
      ctx.font = size + "px system-ui, sans-serif";
      if (ctx.measureText(data.phases[stretch[1]]).width + 8 * ratio < x1 - x0)
        label(data.phases[stretch[1]], (x0 + x1) / 2, bbox.top + bbox.height - 7 * ratio, "center", ink);
    });
    if (moment !== data.peak.event && moment >= u.scales.x.min && moment <= u.scales.x.max) {
      const x = u.valToPos(moment, "x", true);
      rule(x, bbox.top, x, bbox.top + bbox.height, ink, 1.2, []);
    }
    if (data.peak.event >= u.scales.x.min && data.peak.event <= u.scales.x.max) {
      const x = u.valToPos(data.peak.event, "x", true), y = u.valToPos(data.peak.bytes, "y", true);
      ctx.fillStyle = ink; ctx.setLineDash([]);
      ctx.beginPath(); ctx.arc(x, y, 4.5 * ratio, 0, 7); ctx.fill();
      const isRight = x > bbox.left + bbox.width / 2;
      label("peak " + bytesText(data.peak.bytes), x + (isRight ? -8 : 8) * ratio, y + 15 * ratio, isRight ? "right" : "left", ink);
    }
    ctx.restore();
  };

  const tip = add(box, "div", "", "tip");
  tip.hidden = true;
  const showTip = (u) => {
    const { left, top, idx } = u.cursor;
    if (idx == null || left < 0) { tip.hidden = true; return; }
    const event = events[idx];
    tip.replaceChildren();
    add(tip, "b", bytesText(allocated[event]) + " allocated");
    add(tip, "div", bytesText(reserved[event]) + " reserved");
    add(tip, "div", phaseText(stretchAt(event)), "quiet");
    add(tip, "div", shown(moduleOf(event)));
    add(tip, "div", operationOf(event), "quiet");
    tip.hidden = false;
    const isRight = left > u.over.clientWidth / 2;
    tip.style.left = isRight ? "auto" : u.over.offsetLeft + left + 14 + "px";
    tip.style.right = isRight ? box.clientWidth - u.over.offsetLeft - left + 14 + "px" : "auto";
    tip.style.top = Math.min(u.over.offsetTop + Math.max(0, top - 20), box.clientHeight - tip.offsetHeight - 4) + "px";
  };

  const makePlot = () => {
    if (plot) plot.destroy();
    const stepped = uPlot.paths.stepped({ align: 1 });
    const axis = { stroke: style("--quiet"), grid: { stroke: style("--line"), width: 0.5 }, ticks: { show: false } };
    plot = new uPlot({
      width: box.clientWidth, height: height(), legend: { show: false },
      cursor: { points: { show: false }, y: false, drag: { x: true, y: false, dist: 5 } },
      scales: { x: { time: false, range: (u, min, max) => [min, max] }, y: { range: [0, ceiling] } },
      axes: [
        { ...axis, size: 26, grid: { show: false }, values: (u, ticks) => ticks.map((tick) => tick.toLocaleString("en")) },
        { ...axis, size: 66, values: (u, ticks) => ticks.map((tick) => tick ? bytesText(tick).replace(".00", "") : "0"),
          splits: () => {
            const step = 2 ** Math.ceil(Math.log2(ceiling / 6)), ticks = [];
            for (let tick = 0; tick <= ceiling; tick += step) ticks.push(tick);
            return ticks;
          } },
      ],
      series: [
        {},
        ...rows.map((k) => ({ fill: color(k), stroke: color(k), width: 1, paths: stepped, points: { show: false } })),
        { stroke: style("--ink"), width: 1.5, paths: stepped, points: { show: false } },
      ],
      hooks: {
        ready: [() => placeSlider()], drawClear: [drawBands], draw: [drawMarks], setCursor: [showTip],
        setSelect: [(u) => {
          if (u.select.width < 5) return;
          const first = Math.max(0, Math.floor(u.posToVal(u.select.left, "x")));
          const last = Math.min(N - 1, Math.ceil(u.posToVal(u.select.left + u.select.width, "x")));
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          if (last - first > 3) show(first, last);
        }],
      },
    }, columns(...span), box);
    plot.setScale("x", { min: span[0], max: span[1] });
    let down = 0;
    plot.over.addEventListener("mousedown", (press) => { down = press.clientX; });
    plot.over.addEventListener("click", (press) => {
      if (Math.abs(press.clientX - down) > 4) return;
      const x = press.clientX - plot.over.getBoundingClientRect().left;
      setMoment(events[plot.posToIdx(x)]);
    });
    plot.over.addEventListener("dblclick", () => show(0, N - 1, byId("spans").lastChild));
    plot.over.addEventListener("mouseleave", () => { tip.hidden = true; });
  };
  const pressed = (group, button) => {
    for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
  };
  const show = (first, last, button) => {
    span = [first, last];
    pressed(byId("spans"), button);
    plot.setData(columns(first, last), false);
    plot.setScale("x", { min: first, max: last });
    placeSlider();
  };
  // The slider lies under the plot and reaches as far as it shows.
  const slider = byId("moment");
  const placeSlider = () => {
    slider.min = span[0];
    slider.max = span[1];
    slider.value = moment;
    slider.style.marginLeft = plot.over.offsetLeft - 8 + "px";
    slider.style.width = plot.over.clientWidth + 16 + "px";
  };
  const addSpan = (text, first, last) => {
    const button = add(byId("spans"), "button", text);
    button.addEventListener("click", () => show(first, last, button));
    button.setAttribute("aria-pressed", String(first === span[0] && last === span[1]));
  };
  for (const step of steps) addSpan("step " + step, ...spanOf(step));
  addSpan("whole run", 0, N - 1);

  // --- a moment -------------------------------------------------------------------------------------------------------
  let view = "category", isFolded = true, path = [];
  const collect = () => {
    const sums = new Map();  // what each module and category hold
    for (let block = 0; block < blockCount; block++) {
      if (made[block] > moment || ended[block] <= moment) continue;
      const [bytes, category] = data.kinds[data.block_kinds[block]];
      const key = data.pairs[pairOf[made[block]]][0] * K + category;
      sums.set(key, (sums.get(key) || 0) + bytes);
    }
    return sums;
  };
  const makeTree = (sums) => {
    const root = { name: "all", bytes: 0, category: null, children: new Map() };
    for (const [key, bytes] of sums) {
      const category = key % K, name = data.names[(key - category) / K];
      const parts = name === "" ? [shown(name)] : name.split(".").map((part) => isFolded && /^\d+$/.test(part) ? "*" : part);
      const whole = view === "category" ? [data.categories[category], ...parts] : [...parts, data.categories[category]];
      let node = root;
      root.bytes += bytes;
      whole.forEach((part, depth) => {
        if (!node.children.has(part)) node.children.set(part, { name: part, bytes: 0, category: null, children: new Map() });
        node = node.children.get(part);
        node.bytes += bytes;
        if (view === "category" || depth === whole.length - 1) node.category = category;
      });
    }
    return root;
  };
  const drawIcicle = () => {
    const holder = byId("icicle"), width = holder.clientWidth, rowHeight = 27, lines = [];
    let node = makeTree(collect());
    const whole = node.bytes, taken = [];
    for (const name of path) { if (!node.children.has(name)) break; node = node.children.get(name); taken.push(name); }
    path = taken;
    holder.replaceChildren();
    let deepest = 0;
    const place = (item, names, left, depth) => {
      const size = width * item.bytes / node.bytes;
      if (size < 2 || depth > 8) return;
      deepest = Math.max(deepest, depth);
      let label = item.name, at = item, full = names;
      while (at.children.size === 1 && depth) {  // a chain of only children is one cell
        const [only] = at.children.values();
        if (view === "module" && only.category !== null) break;
        label += "." + only.name; at = only; full = [...full, only.name];
      }
      const cell = add(holder, "button", size > 34 ? label : "");
      cell.style.cssText = `left:${left}px;top:${depth * rowHeight}px;width:${Math.max(1, size - 1)}px`;
      if (size <= 34) cell.style.padding = 0;
      cell.style.background = at.category === null ? "#b9c2cf" : color(at.category);
      const words = `${full.join(" / ") || "everything"}: ${bytesText(item.bytes)}, ${shareText(item.bytes, whole)} of what is allocated then`;
      cell.title = words;
      cell.setAttribute("aria-label", words);
      cell.addEventListener("mouseenter", () => { byId("detail").textContent = words; });
      cell.addEventListener("click", () => {
        path = depth === 0 ? path.slice(0, -1) : full;
        drawIcicle();
        byId("detail").textContent = words;
      });
      let x = left;
      for (const child of [...at.children.values()].sort((a, b) => b.bytes - a.bytes)) {
        place(child, [...full, child.name], x, depth + 1);
        x += width * child.bytes / node.bytes;
      }
    };
    if (node.bytes) place(node, path, 0, 0);
    holder.style.height = (deepest + 1) * rowHeight + "px";
  };
  for (const [text, name] of [["by category", "category"], ["by module", "module"]]) {
    const button = add(byId("views"), "button", text);
    button.setAttribute("aria-pressed", String(name === view));
    button.addEventListener("click", () => {
      view = name;
      path = [];
      for (const other of byId("views").children) if (other !== fold) other.setAttribute("aria-pressed", String(other === button));
      drawIcicle();
    });
  }
  const fold = add(byId("views"), "button", "layers together");
  fold.setAttribute("aria-pressed", "true");
  fold.addEventListener("click", () => {
    isFolded = !isFolded;
    path = [];
    fold.setAttribute("aria-pressed", String(isFolded));
    drawIcicle();
  });
  const describeMoment = () => {
    const where = [phaseText(stretchAt(moment)), shown(moduleOf(moment)), operationOf(moment)].filter((part) => part);
    const isPeak = moment === data.peak.event;
    byId("place").textContent = (isPeak ? "At the peak: " : "") + bytesText(allocated[moment]) + " allocated, " +
      bytesText(reserved[moment]) + " reserved; " + where.join(" · ");
    byId("to-peak").hidden = isPeak;
    byId("alive-title").textContent = isPeak ? "What lives at the peak" : "What lives at this moment";
    const parts = byId("parts");
    parts.replaceChildren();
    const held = used.map((k) => [k, tops[k][moment] - (k ? tops[k - 1][moment] : 0)]).filter((part) => part[1]);
    held.sort((a, b) => b[1] - a[1]).forEach(([k, bytes]) => {
      const line = add(parts, "div");
      add(line, "span", "", "swatch").style.background = color(k);
      add(line, "span", data.categories[k]);
      add(line, "span", bytesText(bytes));
      add(line, "span", shareText(bytes, allocated[moment]), "quiet");
    });
  };
  const setMoment = (event) => {
    moment = event;
    slider.value = event;
    describeMoment();
    drawIcicle();
    plot.redraw(false);
  };
  slider.addEventListener("input", () => setMoment(Number(slider.value)));
  byId("to-peak").addEventListener("click", () => setMoment(data.peak.event));

  // --- segments: the reserved bytes in rows, as they lie in memory --------------------------------------------------
  const drawMap = () => {
    const canvas = byId("map"), ratio = devicePixelRatio, lines = 22, lineHeight = 11;
    const width = canvas.clientWidth, total = data.segments.reduce((sum, segment) => sum + sizeOf(segment), 0);
    canvas.style.height = lines * lineHeight + "px";
    canvas.width = width * ratio; canvas.height = lines * lineHeight * ratio;
    const ctx = canvas.getContext("2d");
    ctx.scale(ratio, ratio);
    const perLine = total / lines, empty = style("--line");
    const paint = (from, bytes, fill) => {
      let left = bytes, at = from;
      while (left > 0.5) {
        const line = Math.min(lines - 1, Math.floor(at / perLine + 1e-9)), offset = at - line * perLine;
        const part = Math.min(left, line === lines - 1 ? left : perLine - offset);
        ctx.fillStyle = fill;
        ctx.fillRect(width * offset / perLine, line * lineHeight, width * part / perLine, lineHeight - 1.5);
        at += part; left -= part;
      }
    };
    let at = 0;
    for (const segment of data.segments) {
      const begin = at;
      for (let i = 1; i < segment.length; i += 2) {
        paint(at, segment[i + 1], segment[i] < 0 ? empty : color(segment[i]));
        at += segment[i + 1];
      }
      const line = Math.min(lines - 1, Math.floor(begin / perLine + 1e-9));
      ctx.fillStyle = style("--paper");
      if (width * sizeOf(segment) / perLine > 4)
        ctx.fillRect(width * (begin - line * perLine) / perLine, line * lineHeight, 1, lineHeight - 1.5);
    }
  };
  const sizeOf = (segment) => { let sum = 0; for (let i = 2; i < segment.length; i += 2) sum += segment[i]; return sum; };
  {
    let total = 0, free = 0, whole = 0, largest = 0;
    for (const segment of data.segments) {
      total += sizeOf(segment);
      if (segment.length === 3 && segment[1] < 0) whole += segment[2];
      for (let i = 1; i < segment.length; i += 2) if (segment[i] < 0) { free += segment[i + 1]; largest = Math.max(largest, segment[i + 1]); }
    }
    byId("map-words").textContent = `${data.segments.length} segments, ${bytesText(total)} reserved: ${bytesText(total - free)} ` +
      `hold blocks, ${bytesText(free)} (${shareText(free, total)}) are free, the longest stretch of it ${bytesText(largest)}. ` +
      `Of what is free ${bytesText(whole)} are whole segments, which can go back to the device; the rest is fragments between blocks.`;
  }

  // --- modules --------------------------------------------------------------------------------------------------------
  const find = byId("find");
  if (find) find.addEventListener("input", () => {
    const wanted = find.value.toLowerCase();
    const filter = (element) => {  // whether it or something in it has the text
      const line = element.querySelector(":scope > summary .line, :scope > .line");
      let matches = line.textContent.toLowerCase().includes(wanted), inside = false;
      for (const child of element.children) if (child.matches("details, .leaf")) inside = filter(child) || inside;
      element.hidden = !(matches || inside);
      if (wanted && inside) element.open = true;
      return matches || inside;
    };
    for (const element of byId("tree").children) filter(element);
  });

  // --- all together ---------------------------------------------------------------------------------------------------
  const draw = () => {
    makePlot();
    describeMoment();
    setTimeout(drawIcicle);  // what lies below the first screen, once that is painted
    setTimeout(drawMap);
  };
  draw();
  let lastWidth = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== lastWidth) { lastWidth = window.innerWidth; draw(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details.section")) part.open = true; });
})();
