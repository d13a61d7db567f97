// Lines over epochs, in SVG. Pointing shows the values; a press or drag chooses the epoch, as the slider does.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

function node(name, className, ...content) {
  const element = document.createElement(name);
  element.className = className;
  element.append(...content);
  return element;
}

const isKnown = (v) => v !== null && Number.isFinite(v);

function ticksOf(low, high, n) {
  const rough = (high - low) / n, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough);
  const ticks = [];
  // By counting, since steps added up miss whole numbers.
  for (let k = Math.ceil(low / step); k * step <= high + step / 1e6; k++) ticks.push(k * step);
  return [ticks, Math.max(0, -Math.floor(Math.log10(step)))];
}

/** Return the lowest and highest value to show; for losses not below 0. */
function rangeOf(values, margin) {
  const known = values.filter(isKnown);
  const low = known.length ? Math.min(...known) : 0, high = known.length ? Math.max(...known) : 0;
  const room = (high - low || 1) * margin;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

/** Return functions from the place of an epoch, and from a value, to the coordinates in a box. */
function scalesOf({ left, right, top, bottom, width, height }, [low, high]) {
  const first = meta.epochs[0], last = meta.epochs.at(-1);
  const at = (epoch) => left + ((epoch - first) / (last - first)) * (width - left - right);
  return { at, x: (i) => at(meta.epochs[i]), y: (v) => top + ((high - v) / (high - low)) * (height - top - bottom) };
}

function pathOf(values, x, y) {
  let path = "", pen = "M";
  values.forEach((v, i) => {
    if (!isKnown(v)) { pen = "M"; return; }
    path += `${pen}${x(i).toFixed(1)},${y(v).toFixed(1)}`;
    pen = "L";
  });
  return path;
}

/** Let a pointer look at the epochs of a drawing (`onHover`, -1 when it leaves) and choose one (`onPick`). */
function followPointer(root, box, x, { onHover, onPick }) {
  const touch = svg("rect", { class: "touch", x: 0, y: 0, width: box.width, height: box.height }, root);
  const epochAt = (event) => {
    const frame = root.getBoundingClientRect();
    const at = ((event.clientX - frame.left) / frame.width) * box.width;
    let best = 0;
    for (let i = 1; i < meta.epochs.length; i++) if (Math.abs(x(i) - at) < Math.abs(x(best) - at)) best = i;
    return best;
  };
  touch.addEventListener("pointerdown", (event) => { touch.setPointerCapture(event.pointerId); onPick(epochAt(event)); onHover(epochAt(event)); });
  touch.addEventListener("pointermove", (event) => { if (event.buttons) onPick(epochAt(event)); onHover(epochAt(event)); });
  // A finger that is lifted leaves too: its values stay for a moment, to be read.
  let leaving = null;
  touch.addEventListener("pointerenter", () => clearTimeout(leaving));
  touch.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "touch") leaving = setTimeout(onHover, 3000, -1);
    else onHover(-1);
  });
  touch.addEventListener("pointercancel", () => onHover(-1));
}

/** Mark the best epoch of each run at the foot of a drawing; two that agree stand side by side. */
function drawBest(root, x, foot, height) {
  meta.runs.forEach((run, r) => {
    const at = x(meta.epochs.indexOf(run.best)) + (meta.runs.length > 1 ? 2 * r - 1 : 0);
    svg("line", { class: `best ${lookOf(r)}`, x1: at, x2: at, y1: foot - height, y2: foot }, root);
  });
}

/** Return a line that shows an epoch, and a function that moves it; -1 hides it. */
function verticalLine(root, className, x, y1, y2) {
  const line = svg("line", { class: className, y1, y2 }, root);
  return (i) => {
    line.toggleAttribute("hidden", i < 0);
    if (i >= 0) { line.setAttribute("x1", x(i)); line.setAttribute("x2", x(i)); }
  };
}

/** Return the room beside the lines that the longest label needs. */
const roomFor = (series) => Math.max(62, ...series.map((s) => 8 + 5.8 * (s.label ?? "").length));

/**
 * Draw series over epochs into an element.
 * @param {Array<{label: string, title?: string, values: number[], low?: number[], high?: number[], look: string, marks?: number[]}>} series
 *   `label` stands at the line's end and `title` beside its values; `marks` are the epochs under which a triangle stands.
 */
function drawChart(element, series, { now, height = 190, width = 460, right = roomFor(series), description, onPick }) {
  const box = { left: 38, top: 8, right, bottom: 30, width, height };
  const range = rangeOf(series.flatMap((s) => [...s.values, ...(s.low ?? []), ...(s.high ?? [])]), 0.06);
  const { at, x, y } = scalesOf(box, range), foot = height - box.bottom;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": description });
  drawAxes(root, box, range, at, y);
  for (const s of series) {
    if (!s.low) continue;
    const edge = (values) => values.map((v, i) => (v === null ? "" : `${x(i)},${y(v)}`));
    svg("polygon", { class: `band ${s.look}`, points: [...edge(s.high), ...edge(s.low).reverse()].join(" ") }, root);
  }
  for (const s of series) {
    svg("path", { class: `line ${s.look}`, d: pathOf(s.values, x, y) }, root);
    for (const i of s.marks ?? []) svg("path", { class: "drop-mark", d: `M${x(i) - 4},${foot - 1}l4,-7l4,7z` }, root);
  }
  labelEnds(root, series, box, y);
  drawBest(root, x, foot + 5, 5);
  const readout = node("div", "readout");
  readout.hidden = true;
  readout.setAttribute("aria-hidden", "true"); // the numbers are in a table too
  root.showNow = verticalLine(root, "now", x, box.top, foot);
  root.showNow(now);
  const showHover = verticalLine(root, "hover", x, box.top, foot);
  showHover(-1);
  const onHover = (i) => {
    showHover(i);
    readout.hidden = i < 0;
    if (i >= 0) fillReadout(readout, series, i, x(i) / width);
  };
  followPointer(root, box, x, { onHover, onPick });
  element.classList.add("chart");
  element.replaceChildren(root, readout);
  return root;
}

function drawAxes(root, { left, right, bottom, width, height }, [low, high], at, y) {
  const [ticks, digits] = ticksOf(low, high, 5);
  for (const t of ticks) {
    svg("line", { class: "axis", x1: left, x2: width - right, y1: y(t), y2: y(t) }, root);
    svg("text", { x: left - 5, y: y(t) + 4, "text-anchor": "end" }, root).textContent = t.toFixed(digits);
  }
  const [epochTicks] = ticksOf(meta.epochs[0], meta.epochs.at(-1), 6);
  for (const t of epochTicks.filter((t) => Math.abs(t - Math.round(t)) < 1e-9)) {
    svg("text", { x: at(t), y: height - bottom + 16, "text-anchor": "middle" }, root).textContent = Math.round(t);
  }
  svg("text", { x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle" }, root).textContent = "epoch";
}

/** Put labels at the ends of lines, apart from each other. */
function labelEnds(root, series, { top, right, bottom, width, height }, y) {
  const ends = series.filter((s) => isKnown(s.values.at(-1))).map((s) => [y(s.values.at(-1)), s]);
  ends.sort((a, b) => a[0] - b[0]);
  const every = Math.ceil((ends.length * 12) / (height - top - bottom));
  let free = -Infinity;
  const placed = ends.filter((_, i) => i % every === 0).map(([at, s]) => [(free = Math.max(at + 4, free + 12)), s]);
  const over = Math.max(0, free - (height - bottom + 4));
  for (const [at, s] of placed) svg("text", { class: `name ${s.look}`, x: width - right + 5, y: at - over }, root).textContent = s.label;
}

/** Write the values of an epoch beside the pointer, on the side that has room. */
function fillReadout(readout, series, i, share) {
  const written = (s) => (isKnown(s.values[i]) ? s.values[i].toFixed(2) : "\u2013") + (isKnown(s.low?.[i]) ? ` (${s.low[i].toFixed(2)} to ${s.high[i].toFixed(2)})` : "");
  const rows = series.map((s) => node("div", "", node("i", `key ${s.look}`), `${s.title ?? s.label} `, node("b", "", written(s))));
  readout.replaceChildren(node("div", "", `epoch ${meta.epochs[i]}, nats`), ...rows);
  readout.style.left = share < 0.5 ? `${100 * share + 3}%` : "";
  readout.style.right = share < 0.5 ? "" : `${100 * (1 - share) + 3}%`;
}

function table(header, rows) {
  const element = document.createElement("table");
  const line = (cells, name, parent) => {
    const row = parent.insertRow();
    cells.forEach((text, i) => {
      const one = document.createElement(i === 0 || name === "th" ? "th" : "td");
      if (one.tagName === "TH") one.scope = name === "th" ? "col" : "row";
      one.textContent = text;
      row.append(one);
    });
  };
  line(header, "th", element.createTHead());
  const rest = element.createTBody();
  for (const row of rows) line(row, "td", rest);
  return element;
}
