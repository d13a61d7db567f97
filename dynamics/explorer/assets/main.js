// The state of the page is its address: whoever opens the address sees the same.

const DEFAULTS = {
  split: "", doc: -1, part: 0, at: "", epoch: -1, value: "loss", runs: "a", hide: "", tab: "passages", sort: "place", q: "", least: "",
  tsort: "rebound", tbucket: "", tclass: "", tfirst: "", tq: "", tleast: "",
};
const state = { ...DEFAULTS, p: 0, e: 0 };
const charts = [];
let playing = null;
let writing = null;
// A page inside another, as in a notebook, has no address of its own to write to.
const inline = window.self !== window.top;

function address(given) {
  const query = new URLSearchParams();
  for (const [key, usual] of Object.entries(DEFAULTS)) if (given[key] !== usual) query.set(key, given[key]);
  return `#${query}`;
}

function setState(changes) {
  Object.assign(state, changes);
  // Browsers refuse many changes a second, which a drag of the slider would make.
  writing ??= setTimeout(writeAddress, 400);
}

function writeAddress() {
  clearTimeout(writing);
  writing = null;
  if (!inline) history.replaceState(null, "", address(state));
}

/** Take the state from the address; whatever is not possible there becomes what is usual. */
function readAddress(hash = location.hash) {
  const query = new URLSearchParams(hash.slice(1));
  const given = Object.fromEntries(Object.keys(DEFAULTS).map((key) => [key, query.get(key) ?? DEFAULTS[key]]));
  const among = (key, options) => { if (!options.includes(given[key])) given[key] = DEFAULTS[key]; };
  DEFAULTS.split = meta.splits[meta.passages[0].split];
  if (!meta.passages.some((p) => meta.splits[p.split] === given.split)) given.split = DEFAULTS.split;
  among("value", Object.keys(VALUES));
  among("runs", meta.runs.length > 1 ? ["a", "b", "side", "difference"] : ["a"]);
  among("hide", ["", "now", ...meta.epochs.map(String)]);
  among("tab", ["passages", "tokens"]);
  among("sort", Object.keys(PASSAGE_SORTS));
  among("tsort", Object.keys(TOKEN_SORTS));
  among("tbucket", ["", ...meta.buckets]);
  among("tclass", ["", ...meta.classes]);
  among("tfirst", ["", "never", ...meta.epochs.map(String)]);
  given.doc = Number(given.doc);
  given.part = Number(given.part);
  let p = passageIndex(given.split, given.doc, given.part);
  if (p < 0) p = meta.passages.findIndex((one) => meta.splits[one.split] === given.split);
  Object.assign(given, place(p));
  const e = meta.epochs.indexOf(Number(given.epoch));
  given.e = e < 0 ? meta.epochs.length - 1 : e;
  given.epoch = meta.epochs[given.e];
  given.p = p;
  Object.assign(state, given);
}

function setEpoch(e, speak = false) {
  e = Math.min(meta.epochs.length - 1, Math.max(0, e));
  setState({ e, epoch: meta.epochs[e] });
  $("epoch").value = e;
  $("epoch-number").textContent = state.epoch;
  $("epoch").setAttribute("aria-valuetext", `epoch ${state.epoch}`);
  for (const chart of charts) chart.showNow(e);
  paint();
  look(looked, { speak });
}

async function render() {
  $("epoch").value = state.e;
  for (const [id, key] of [["value", "value"], ["runs", "runs"], ["hide", "hide"], ["split", "split"], ["sort", "sort"], ["query", "q"], ["least", "least"],
    ["token-sort", "tsort"], ["token-bucket", "tbucket"], ["token-class", "tclass"], ["token-first", "tfirst"], ["token-query", "tq"], ["token-least", "tleast"]]) {
    if ($(id).value !== state[key]) $(id).value = state[key];
  }
  for (const name of ["passages", "tokens"]) {
    const here = state.tab === name;
    $(`tab-${name}`).setAttribute("aria-selected", here);
    $(`tab-${name}`).tabIndex = here ? 0 : -1;
    $(`panel-${name}`).hidden = !here;
  }
  drawLegend($("legend"), scaleOf(state.value, isDifference()));
  drawOverview();
  await showPassage(state.p);
  setEpoch(state.e);
  list();
}

function drawOverview() {
  charts.length = 0;
  const names = meta.runs.map((run) => run.name).join(" (grey) and ") + (meta.runs.length > 1 ? " (orange)" : "");
  const curve = (r, split, bucket) => meta.runs[r].curves.find((c) => c.split === split && c.bucket === bucket);
  const series = (r, c, k, label) => ({ name: label, label, look: `run${r} dash${k % 4}`, values: c.estimate, low: c.low, high: c.high });
  const all = meta.runs.flatMap((_, r) => meta.splits.map((split, k) => series(r, curve(r, split, ""), k, split)));
  $("degradation-title").textContent = `Loss of all tokens, nats: ${names}. Bands: 95 % over documents.`;
  charts.push(drawChart($("degradation"), all, { now: state.e, onPick: setEpoch, description: `Mean loss by epoch of ${names}; the numbers are below` }));
  const buckets = meta.runs.flatMap((_, r) => meta.buckets.map((b, k) => series(r, curve(r, state.split, b), k, b)));
  $("bucket-title").textContent = buckets.length ? `The same by bucket of reference entropy, ${state.split}` : "No reference entropy was recorded, so there are no buckets.";
  if (buckets.length) charts.push(drawChart($("bucket-curves"), buckets, { now: state.e, onPick: setEpoch, description: `Mean ${state.split} loss by epoch and bucket of reference entropy; the numbers are below` }));
  const columns = meta.runs.flatMap((run, r) => run.curves.map((c) => [`${meta.runs.length > 1 ? `${run.name}: ` : ""}${c.split}${c.bucket ? `, ${c.bucket}` : ""}`, c.estimate]));
  $("numbers-table").replaceChildren(table(["epoch", ...columns.map(([name]) => name)], meta.epochs.map((epoch, i) => [epoch, ...columns.map(([, values]) => values[i]?.toFixed(4) ?? "\u2013")])));
}

function play(on) {
  clearInterval(playing);
  playing = on ? setInterval(() => setEpoch(state.e + 1 < meta.epochs.length ? state.e + 1 : 0), 700) : null;
  $("play").textContent = on ? "Pause" : "Play";
  $("play").setAttribute("aria-pressed", on);
}

function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  $("theme").setAttribute("aria-pressed", dark);
  if (!shown) return;
  for (const column of shown.columns) column.painted.fill(undefined);
  paint();
  drawLegend($("legend"), scaleOf(state.value, isDifference()));
}

function fillSelect(id, options) {
  $(id).replaceChildren(...options.map(([value, label]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = label;
    return option;
  }));
}

function setUp() {
  const names = meta.runs.map((run) => run.name);
  document.title = `${names.join(" and ")}: token explorer`;
  $("title").textContent = "Token explorer";
  $("subtitle").textContent = meta.runs.length > 1 ? `A: ${names[0]}. B: ${names[1]}.` : names[0];
  $("epoch").max = meta.epochs.length - 1;
  fillSelect("value", Object.entries(VALUES).map(([key, { title }]) => [key, title]));
  fillSelect("runs", meta.runs.length > 1 ? [["a", names[0]], ["b", names[1]], ["side", "side by side"], ["difference", "difference"]] : [["a", names[0]]]);
  $("runs-label").hidden = meta.runs.length < 2;
  fillSelect("hide", [["", "no epoch"], ["now", "the epoch shown"], ...meta.epochs.filter((e) => e > 0).map((e) => [e, `epoch ${e}`])]);
  fillSelect("split", meta.splits.filter((s) => meta.passages.some((p) => meta.splits[p.split] === s)).map((s) => [s, s]));
  fillSelect("sort", Object.entries(PASSAGE_SORTS).map(([key, [title]]) => [key, title]));
  fillSelect("token-sort", Object.entries(TOKEN_SORTS).map(([key, [title]]) => [key, title]));
  fillSelect("token-bucket", [["", "all"], ...meta.buckets.map((b) => [b, b])]);
  fillSelect("token-class", [["", "all"], ...meta.classes.map((c) => [c, c])]);
  fillSelect("token-first", [["", "any epoch"], ["never", "never"], ...meta.epochs.map((e) => [e, `epoch ${e}`])]);
  $("notes").replaceChildren(...meta.notes.map((note) => { const item = document.createElement("li"); item.textContent = note; return item; }));
  $("recipes").replaceChildren(...meta.runs.flatMap((run) => {
    const name = document.createElement("h3"), recipe = document.createElement("pre");
    name.textContent = run.name;
    recipe.textContent = run.recipe;
    return [name, recipe];
  }));
  $("share").hidden = inline;

  $("epoch").addEventListener("input", () => setEpoch(Number($("epoch").value)));
  $("play").addEventListener("click", () => play(playing === null));
  $("theme").addEventListener("click", () => setTheme(theme() === "light"));
  $("skip").addEventListener("click", (event) => { event.preventDefault(); shown?.columns[0].element.focus(); });
  $("share").addEventListener("click", async () => {
    let said = "Copied";
    writeAddress();
    try { await navigator.clipboard.writeText(location.href); } catch { said = "The address is in the address bar"; }
    $("share").textContent = said;
    setTimeout(() => { $("share").textContent = "Copy address"; }, 2000);
  });
  const change = (id, key, then) => $(id).addEventListener($(id).tagName === "SELECT" ? "change" : "input", () => { setState({ [key]: $(id).value }); then(); });
  change("value", "value", render);
  change("runs", "runs", render);
  change("hide", "hide", paint);
  change("split", "split", () => { setState({ doc: -1, at: "" }); go(meta.passages.findIndex((p) => meta.splits[p.split] === state.split)); });
  change("sort", "sort", list);
  change("least", "least", list);
  change("query", "q", () => { list(); markFound(); });
  for (const [id, key] of [["token-sort", "tsort"], ["token-bucket", "tbucket"], ["token-class", "tclass"], ["token-first", "tfirst"], ["token-query", "tq"], ["token-least", "tleast"]]) change(id, key, list);
  const step = (by) => () => go(Math.min(meta.passages.length - 1, Math.max(0, state.p + by)));
  $("previous").addEventListener("click", step(-1));
  $("next").addEventListener("click", step(1));
  const tabs = ["passages", "tokens"];
  for (const name of tabs) {
    $(`tab-${name}`).addEventListener("click", () => { setState({ tab: name }); render(); });
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs[1 - tabs.indexOf(name)];
      setState({ tab: other });
      render().then(() => $(`tab-${other}`).focus());
    });
  }
  // Addresses typed, shared or gone back to; and links within the page, which lead from the state of the moment.
  window.addEventListener("hashchange", () => { clearTimeout(writing); writing = null; readAddress(); render(); });
  const linkOf = (event) => event.target.closest?.("nav a");
  for (const kind of ["pointerdown", "focusin"]) {
    document.addEventListener(kind, (event) => { const anchor = linkOf(event); if (anchor) anchor.href = address({ ...state, ...anchor.to }); });
  }
  document.addEventListener("click", (event) => {
    const anchor = linkOf(event);
    if (!anchor || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // a new tab, and the like
    event.preventDefault();
    writeAddress();
    const there = address({ ...state, ...anchor.to });
    if (!inline) history.pushState(null, "", there);
    readAddress(there);
    render();
  });
}

function go(p) {
  setState({ ...place(p), p, at: "" });
  render();
}

async function start() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old for it: it needs Chrome 80, Firefox 113, Safari 16.4 or later");
  await readMeta();
  setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches);
  readAddress();
  setUp();
  $("page").hidden = false;
  await render();
  document.documentElement.dataset.ready = "true";
  await readAll();
  document.documentElement.dataset.complete = "true";
}

start().catch((error) => {
  $("problem").hidden = false;
  $("problem").textContent = `The page cannot be shown: ${error.message}`;
});
