// Above the text: the mean losses as sparklines, and the same as charts and numbers for whoever opens them.

const charts = []; // all that shows the epoch

/** Return the class that gives a run its colour: that of its arm in figures. */
const lookOf = (r) => `look-${meta.runs[r].look}`;
const curveOf = (r, split, bucket = "") => meta.runs[r].curves.find((c) => c.split === split && c.bucket === bucket);

/** Return how far a mean loss lies above that in the run's best epoch, nats; NaN if one is unknown. */
function riseOf(r, curve, e) {
  const best = meta.epochs.indexOf(meta.runs[r].best);
  return isKnown(curve[e]) && isKnown(curve[best]) ? curve[e] - curve[best] : NaN;
}

function drawOverview() {
  charts.length = 0;
  const buckets = meta.buckets.length ? [...new Set([meta.buckets[0], meta.buckets.at(-1)])] : [];
  const shownCurves = [
    ...meta.splits.map((split) => [split, split, ""]),
    ...buckets.map((bucket) => [`${state.split}, ${bucket} entropy`, state.split, bucket]),
  ];
  $("sparks").replaceChildren(...shownCurves.map(([name, split, bucket]) => {
    const figure = document.createElement("figure");
    charts.push(drawSpark(figure, name, meta.runs.map((_, r) => curveOf(r, split, bucket).estimate)));
    return figure;
  }));
  drawCharts();
}

/** Draw one sparkline: every run's line, and beside it the values of the epoch that is pointed at or shown. */
function drawSpark(element, name, curves) {
  const box = { left: 4, right: 4, top: 3, bottom: 7, width: 120, height: 42 };
  const { x, y } = scalesOf(box, rangeOf(curves.flat(), 0.03));
  const written = (curve, r, e) => {
    const rise = riseOf(r, curve, e);
    return [isKnown(curve[e]) ? curve[e].toFixed(2) : "\u2013", Number.isNaN(rise) || meta.runs[r].best === meta.epochs[e] ? "" : `${signed(rise, 2)}`];
  };
  const root = svg("svg", { viewBox: `0 0 ${box.width} ${box.height}`, role: "img" });
  svg("line", { class: "axis", x1: box.left, x2: box.width - box.right, y1: box.height - 1, y2: box.height - 1 }, root);
  curves.forEach((curve, r) => svg("path", { class: `line ${lookOf(r)}`, d: pathOf(curve, x, y) }, root));
  drawBest(root, x, box.height, 6);
  const moveNow = verticalLine(root, "now", x, 0, box.height), moveHover = verticalLine(root, "hover", x, 0, box.height);
  moveHover(-1);
  const caption = document.createElement("figcaption");
  const tell = (e, pointed) => {
    // The epoch that is pointed at stands over the name, which keeps its width, so that nothing moves.
    const title = pointed ? node("span", "curve-name pointed", name, node("i", "", `epoch ${meta.epochs[e]}`)) : node("span", "curve-name", name);
    caption.replaceChildren(title,
      ...curves.map((curve, r) => { const [value, rise] = written(curve, r, e); return node("span", `value ${lookOf(r)}`, node("b", "", value), " ", rise); }));
  };
  root.showNow = (e) => {
    moveNow(e);
    tell(e, false);
    const said = curves.map((curve, r) => `${meta.runs[r].name} ${written(curve, r, e).join(" ").trim()}`).join("; ");
    root.setAttribute("aria-label", `${name}: mean loss in epoch ${meta.epochs[e]}, and its change since the best epoch: ${said} nats`);
  };
  root.showNow(state.e);
  followPointer(root, box, x, { onPick: setEpoch, onHover: (e) => { moveHover(e); tell(e < 0 ? state.e : e, e >= 0); } });
  element.replaceChildren(root, caption);
  return root;
}

function drawCharts() {
  const two = meta.runs.length > 1, names = meta.runs.map((run) => run.name).join(" and ");
  const series = (r, c, k, label) => ({
    label, title: two ? `${"AB"[r]} ${label}` : label, look: `${lookOf(r)} dash${k % 4}`, values: c.estimate, low: c.low, high: c.high,
  });
  const all = meta.runs.flatMap((_, r) => meta.splits.map((split, k) => series(r, curveOf(r, split), k, split)));
  $("degradation-title").textContent = "Mean loss of all tokens, nats. Bands: 95 % intervals over documents. Ticks on the axis: best epochs.";
  charts.push(drawChart($("degradation"), all, { now: state.e, onPick: setEpoch, description: `Mean loss by epoch of ${names}; the numbers are below` }));
  const buckets = meta.runs.flatMap((_, r) => meta.buckets.map((b, k) => series(r, curveOf(r, state.split, b), k, b)));
  $("bucket-title").textContent = buckets.length ? `The same by bucket of reference entropy, ${state.split}` : "No reference entropy was recorded, so there are no buckets.";
  if (buckets.length) charts.push(drawChart($("bucket-curves"), buckets, { now: state.e, onPick: setEpoch, description: `Mean ${state.split} loss by epoch and bucket of reference entropy; the numbers are below` }));
  const columns = meta.runs.flatMap((run) => run.curves.map((c) => [`${two ? `${run.name}: ` : ""}${c.split}${c.bucket ? `, ${c.bucket}` : ""}`, c.estimate]));
  $("numbers-table").replaceChildren(table(["epoch", ...columns.map(([name]) => name)], meta.epochs.map((epoch, i) => [epoch, ...columns.map(([, values]) => values[i]?.toFixed(4) ?? "\u2013")])));
}

/** Mark the best epochs on the slider, with a button for each. */
function drawBestEpochs() {
  const first = meta.epochs.length - 1;
  $("ticks").replaceChildren(...meta.runs.map((run, r) => {
    const tick = node("i", lookOf(r)), share = meta.epochs.indexOf(run.best) / first;
    tick.style.left = `calc(${share} * (100% - var(--thumb)) + var(--thumb) / 2 + ${meta.runs.length > 1 ? 3 * r - 1.5 : 0}px)`;
    return tick;
  }));
  const epochs = [...new Set(meta.runs.map((run) => run.best))];
  $("best").replaceChildren(...epochs.map((epoch) => {
    const of = meta.runs.map((run, r) => (run.best === epoch ? "AB"[r] : "")).join("");
    const button = node("button", "", `Best${epochs.length > 1 ? ` ${of}` : ""}: ${epoch}`);
    button.type = "button";
    button.title = `The epoch with the lowest mean ${meta.splits[0]} loss`;
    button.addEventListener("click", () => setEpoch(meta.epochs.indexOf(epoch), true));
    return button;
  }));
}

/** Return what a run's name needs beside it: from where on it has no finite mean loss. */
function divergenceOf(r) {
  const curve = curveOf(r, meta.splits[0]).estimate;
  const last = curve.findLastIndex(isKnown);
  return last === curve.length - 1 ? "" : last < 0 ? "diverged: no finite mean loss" : `diverged: no finite mean loss after epoch ${meta.epochs[last]}`;
}
