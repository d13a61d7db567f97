// Lines over epochs, in SVG. A press or drag chooses the epoch; the slider does the same by keyboard.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

function ticksOf(low, high, n) {
  const rough = (high - low) / n, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough);
  const ticks = [];
  // By counting, since steps added up miss whole numbers.
  for (let k = Math.ceil(low / step); k * step <= high + step / 1e6; k++) ticks.push(k * step);
  return [ticks, Math.max(0, -Math.floor(Math.log10(step)))];
}

/** Return the room beside the lines that the longest label needs. */
const roomFor = (series) => Math.max(62, ...series.map((s) => 8 + 5.8 * (s.label ?? "").length));

/**
 * Draw series over epochs into an element.
 * @param {Array<{name: string, label?: string, values: number[], low?: number[], high?: number[], look: string, marks?: number[]}>} series
 *   `label` stands at the line's end; `marks` are indices of epochs under which a triangle stands.
 */
function drawChart(element, series, { now, height = 190, width = 460, right = roomFor(series), description, onPick }) {
  const E = meta.epochs.length, left = 38, top = 8, bottom = 30;
  const known = series.flatMap((s) => [...s.values, ...(s.low ?? []), ...(s.high ?? [])]).filter((v) => v !== null && Number.isFinite(v));
  let low = Math.min(...known), high = Math.max(...known);
  if (!known.length) low = high = 0;
  const room = (high - low || 1) * 0.06;
  low = low >= 0 ? Math.max(0, low - room) : low - room;
  high += room;
  const first = meta.epochs[0], last = meta.epochs[E - 1];
  const x = (i) => left + ((meta.epochs[i] - first) / (last - first)) * (width - left - right);
  const y = (v) => top + ((high - v) / (high - low)) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": description });
  const [ticks, digits] = ticksOf(low, high, 5);
  for (const t of ticks) {
    svg("line", { class: "axis", x1: left, x2: width - right, y1: y(t), y2: y(t) }, root);
    svg("text", { x: left - 5, y: y(t) + 4, "text-anchor": "end" }, root).textContent = t.toFixed(digits);
  }
  const [epochTicks] = ticksOf(first, last, 6);
  for (const t of epochTicks.filter((t) => Math.abs(t - Math.round(t)) < 1e-9)) {
    const at = left + ((t - first) / (last - first)) * (width - left - right);
    svg("text", { x: at, y: height - bottom + 15, "text-anchor": "middle" }, root).textContent = Math.round(t);
  }
  svg("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, root).textContent = "epoch";
  for (const s of series) {
    if (!s.low) continue;
    const up = s.high.map((v, i) => (v === null ? "" : `${x(i)},${y(v)}`)), down = s.low.map((v, i) => (v === null ? "" : `${x(i)},${y(v)}`)).reverse();
    svg("polygon", { class: `band ${s.look}`, points: [...up, ...down].join(" ") }, root);
  }
  const ends = [];
  for (const s of series) {
    let path = "", pen = "M";
    s.values.forEach((v, i) => {
      if (v === null || !Number.isFinite(v)) { pen = "M"; return; }
      path += `${pen}${x(i).toFixed(1)},${y(v).toFixed(1)}`;
      pen = "L";
    });
    svg("path", { class: `line ${s.look}`, d: path }, root);
    for (const i of s.marks ?? []) svg("path", { class: "drop-mark", d: `M${x(i) - 4},${height - bottom - 1}l4,-7l4,7z` }, root);
    const end = s.values[E - 1];
    if (s.label && end !== null && Number.isFinite(end)) ends.push([y(end), s]);
  }
  // Labels at the ends of lines, apart from each other.
  ends.sort((a, b) => a[0] - b[0]);
  const every = Math.ceil((ends.length * 12) / (height - top - bottom));
  let free = -Infinity;
  const placed = ends.filter((_, i) => i % every === 0).map(([at, s]) => [(free = Math.max(at + 4, free + 12)), s]);
  const over = Math.max(0, free - (height - bottom + 4));
  for (const [at, s] of placed) svg("text", { class: s.look.split(" ")[0], x: width - right + 5, y: at - over }, root).textContent = s.label;
  const line = svg("line", { class: "now", y1: top, y2: height - bottom }, root);
  root.showNow = (i) => { line.setAttribute("x1", x(i)); line.setAttribute("x2", x(i)); };
  root.showNow(now);
  if (onPick) {
    const touch = svg("rect", { class: "touch", x: left - 6, y: 0, width: width - left - right + 12, height }, root);
    const pick = (event) => {
      const box = root.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * width;
      let best = 0;
      for (let i = 1; i < E; i++) if (Math.abs(x(i) - at) < Math.abs(x(best) - at)) best = i;
      onPick(best);
    };
    touch.addEventListener("pointerdown", (event) => { touch.setPointerCapture(event.pointerId); pick(event); });
    touch.addEventListener("pointermove", (event) => { if (event.buttons) pick(event); });
  }
  element.replaceChildren(root);
  return root;
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
