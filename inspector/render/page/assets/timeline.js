"use strict";
// The run over time: categories stacked, what is reserved and what cards have as lines, phases as bands, the peak marked.
(() => {
  const page = window.inspectorPage;
  const { data, byId, color, N, reserved, tops, allocated, used, stretchAt, phaseText, moduleOf, operationOf } = page;
  const { choose, style, bytesText, add, shown } = page;

  const box = byId("timeline");
  const steps = [...new Set(data.stretches.map((stretch) => stretch[0]))].filter((step) => step > 0);
  const spanOf = (step) => {
    const begin = data.stretches.find((stretch) => stretch[0] === step)[2];
    const next = data.stretches.find((stretch) => stretch[0] > step);
    return [Math.max(0, begin - 1), next ? next[2] - 1 : N - 1];
  };
  const peakStep = stretchAt(data.peak.event)[0];
  const isLong = steps.length > 6;  // a generation: its steps are looked at together
  const allSteps = steps.length ? [spanOf(steps[0])[0], N - 1] : [0, N - 1];
  let span = isLong ? allSteps : steps.includes(peakStep) ? spanOf(peakStep) : [0, N - 1], plot = null, events = [];
  const most = Math.max(data.peak_reserved_bytes, data.peak.bytes);
  // A limit far above everything would flatten the rest; the nearest one is shown if it leaves half of the height.
  let limits = data.limits.filter((limit) => limit.bytes <= 2 * most).sort((a, b) => a.bytes - b.bytes);
  if (data.limits.length > 4) {  // the common cards, which nobody named: the next smaller one and the next larger one
    const above = limits.findIndex((limit) => limit.bytes >= most);
    limits = above < 0 ? limits.slice(-1) : limits.slice(Math.max(0, above - 1), above + 1);
  }
  const beyond = data.limits.filter((limit) => !limits.includes(limit));
  if (beyond.length && data.limits.length <= 4)
    byId("beyond").textContent = "Above the picture: " +
      beyond.map((limit) => limit.gpu + ", " + bytesText(limit.bytes) + " usable").join("; ") + ". ";
  if (data.events_of_the_run > N)
    byId("left-out").textContent = `The run has ${data.events_of_the_run.toLocaleString("en")} events: of what comes and ` +
      "goes between the moments shown here, some is left out. ";
  // Steps of one phase that follow each other, as those of a generation do, are one band.
  const bands = data.stretches.filter((stretch, index) => !index || data.stretches[index - 1][1] !== stretch[1]);
  const endOf = (list, index) => index + 1 < list.length ? list[index + 1][2] : N;
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
    bands.forEach((band, index) => {
      const left = Math.max(bbox.left, u.valToPos(band[2], "x", true));
      const right = Math.min(bbox.left + bbox.width, u.valToPos(endOf(bands, index), "x", true));
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
    // The most that is reserved of what is shown stands at the side where it is.
    const first = Math.max(0, Math.ceil(u.scales.x.min)), last = Math.min(N - 1, Math.floor(u.scales.x.max));
    const atLeft = reserved[first] >= reserved[last], end = atLeft ? first : last;
    label("reserved " + bytesText(reserved[end]), atLeft ? bbox.left + 5 * ratio : right - 5 * ratio,
      u.valToPos(reserved[end], "y", true) - 5 * ratio, atLeft ? "left" : "right", ink);
    let before = -Infinity;
    for (const limit of limits) {
      const y = u.valToPos(limit.bytes, "y", true);
      rule(bbox.left, y, right, y, style("--no"), 1.5, [7, 4]);
      if (Math.abs(y - before) > 14 * ratio) {
        label(limit.gpu + ": " + bytesText(limit.bytes) + " usable", right - 4 * ratio, y + 13 * ratio, "right", style("--no"));
        before = y;
      }
    }
    data.stretches.forEach((stretch, index) => {
      const x0 = u.valToPos(stretch[2], "x", true), x1 = u.valToPos(endOf(data.stretches, index), "x", true);
      const isWide = bands.includes(stretch) || x1 - x0 > 30 * ratio;
      if (isWide && x0 > bbox.left && x0 < right) rule(x0, bbox.top, x0, bbox.top + bbox.height, quiet, 0.6, [2, 3]);
    });
    bands.forEach((band, index) => {
      const x0 = Math.max(bbox.left, u.valToPos(band[2], "x", true));
      const x1 = Math.min(right, u.valToPos(endOf(bands, index), "x", true));
      ctx.font = size + "px system-ui, sans-serif";
      if (ctx.measureText(data.phases[band[1]]).width + 8 * ratio < x1 - x0)
        label(data.phases[band[1]], (x0 + x1) / 2, bbox.top + bbox.height - 7 * ratio, "center", ink);
    });
    const moment = page.moment;
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

  const findLargest = (first, last) => {
    let largest = first;
    for (let event = first; event <= last; event++) if (allocated[event] > allocated[largest]) largest = event;
    return largest;
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
      page.setMoment(events[plot.posToIdx(x)]);
    });
    plot.over.addEventListener("dblclick", () => show(...chosen));
    plot.over.addEventListener("mouseleave", () => { tip.hidden = true; });
  };
  const pressed = (group, button) => {
    for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
  };
  // The moment that is looked at is one that is shown: else the largest of those. A double click shows `chosen` again.
  let chosen;
  const show = (first, last, button) => {
    span = [first, last];
    if (button) chosen = [first, last, button];
    pressed(byId("spans"), button);
    if (page.moment < first || page.moment > last) page.setMoment(findLargest(first, last));
    plot.setData(columns(first, last), false);
    plot.setScale("x", { min: first, max: last });
    placeSlider();
  };
  // The slider lies under the plot and reaches as far as it shows.
  const slider = byId("moment");
  const placeSlider = () => {
    slider.min = span[0];
    slider.max = span[1];
    slider.value = page.moment;
    slider.style.marginLeft = plot.over.offsetLeft - 8 + "px";
    slider.style.width = plot.over.clientWidth + 16 + "px";
  };
  const addSpan = (text, first, last) => {
    const button = add(byId("spans"), "button", text);
    button.addEventListener("click", () => show(first, last, button));
    const isShown = first === span[0] && last === span[1];
    button.setAttribute("aria-pressed", String(isShown));
    if (isShown) chosen = [first, last, button];
  };
  if (isLong) {
    addSpan("all steps", ...allSteps);
    const wanted = [["first step", steps[0]], ["step of the peak", peakStep], ["last step", steps[steps.length - 1]]];
    for (const [text, step] of wanted) if (step) addSpan(text, ...spanOf(step));
  } else for (const step of steps) addSpan("step " + step, ...spanOf(step));
  addSpan("whole run", 0, N - 1);
  addSpan("around the peak", Math.max(0, data.peak.event - 40), Math.min(N - 1, data.peak.event + 40));
  if (isLong) {
    const line = add(byId("spans"), "label", "step "), chooser = add(line, "input");
    Object.assign(chooser, { type: "number", id: "step", min: steps[0], max: steps[steps.length - 1], value: peakStep || steps[0] });
    add(line, "span", " of " + steps[steps.length - 1].toLocaleString("en"));
    chooser.addEventListener("change", () => {
      const wanted = Math.max(steps[0], Number(chooser.value) || 0);
      const step = steps.filter((known) => known <= wanted).pop();
      chooser.value = step;
      show(...spanOf(step), line);
    });
  }
  slider.addEventListener("input", () => page.setMoment(Number(slider.value)));
  page.follow.push(() => {
    slider.value = page.moment;
    slider.setAttribute("aria-valuetext", phaseText(stretchAt(page.moment)) + ": " + bytesText(allocated[page.moment]));
    plot.redraw(false);
  });
  page.draw.push(makePlot);
})();
