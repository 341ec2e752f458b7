"use strict";
// What lives at the moment that is looked at, and how the allocator's memory lies at the peak.
(() => {
  const page = window.inspectorPage;
  const { data, byId, color, K, blockCount, made, ended, pairOf, reserved, tops, allocated, used } = page;
  const { stretchAt, phaseText, moduleOf, operationOf, style, bytesText, shareText, add, shown } = page;

  let view = "category", isFolded = true, path = [], before = [];  // `before`: the paths one came by
  const collect = () => {
    const sums = new Map();  // what each module and category hold
    for (let block = 0; block < blockCount; block++) {
      if (made[block] > page.moment || ended[block] <= page.moment) continue;
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
    byId("up").hidden = !before.length;
    if (before.length) byId("up").textContent = "\u2191 back to " + (before[before.length - 1].join(" / ") || "all");
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
        if (depth === 0) goUp(); else { before.push(path); path = full; drawIcicle(); }
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
  const goUp = () => {
    path = before.pop() || [];
    drawIcicle();
  };
  byId("up").addEventListener("click", goUp);
  byId("icicle").addEventListener("keydown", (press) => { if (press.key === "Escape") goUp(); });
  for (const [text, name] of [["by category", "category"], ["by module", "module"]]) {
    const button = add(byId("views"), "button", text);
    button.setAttribute("aria-pressed", String(name === view));
    button.addEventListener("click", () => {
      view = name;
      path = []; before = [];
      for (const other of byId("views").children) if (other !== fold) other.setAttribute("aria-pressed", String(other === button));
      drawIcicle();
    });
  }
  const fold = add(byId("views"), "button", "layers together");
  fold.setAttribute("aria-pressed", "true");
  fold.addEventListener("click", () => {
    isFolded = !isFolded;
    path = []; before = [];
    fold.setAttribute("aria-pressed", String(isFolded));
    drawIcicle();
  });
  const describeMoment = () => {
    const moment = page.moment;
    const where = [phaseText(stretchAt(moment)), shown(moduleOf(moment)), operationOf(moment)].filter((part) => part);
    const isPeak = moment === data.peak.event;
    byId("place").textContent = (isPeak ? "At the peak: " : "") + bytesText(allocated[moment]) + " allocated, " +
      bytesText(reserved[moment]) + " reserved; " + where.join(" \u00b7 ");
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
  byId("to-peak").addEventListener("click", () => page.setMoment(data.peak.event));
  page.follow.push(describeMoment, drawIcicle);

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
      `Of what is free ${bytesText(whole)} are whole segments, which can go back to the device; the rest is fragments between blocks. ` +
      "Colours are those above, grey is free; each row goes on where the one above it ends.";
  }

  // --- all together ---------------------------------------------------------------------------------------------------
  page.redraw = () => {
    for (const part of page.draw) part();
    drawIcicle();
    drawMap();
  };
  for (const part of page.draw) part();
  describeMoment();
  setTimeout(drawIcicle);  // what lies below the first screen, once that is painted
  setTimeout(drawMap);
  byId("unscripted").hidden = true;
  let lastWidth = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== lastWidth) { lastWidth = window.innerWidth; page.redraw(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", page.redraw);
})();
