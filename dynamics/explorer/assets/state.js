// The state of the page is its address: whoever opens the address sees the same.

// What an address that is silent means. `openingDefaults` sets those that depend on the runs.
const DEFAULTS = {
  split: "", doc: -1, part: 0, at: "", epoch: -1, value: "loss", runs: "a", hide: "", tab: "passages", sort: "place", q: "", least: "",
  tsort: "rebound", tbucket: "", tclass: "", tfirst: "", tq: "", tleast: "",
};
const state = { ...DEFAULTS, p: 0, e: 0, opening: false };
let mostRebounded = 0; // the run whose first split rebounded most
let openingEpoch = 0; // its place among the epochs
let writing = null;
// A page inside another, as in a notebook, has no address of its own to write to.
const inline = window.self !== window.top;

/**
 * Choose what the page opens on: the last epoch with a finite mean loss, what rebounded most first, coloured by the
 * change since the best epoch. Where no run rose since its best epoch, that change shows nothing, so the loss is shown.
 */
function openingDefaults() {
  const curves = meta.runs.map((_, r) => curveOf(r, meta.splits[0]).estimate);
  const e = Math.max(...curves.map((curve) => curve.findLastIndex(isKnown)));
  const last = e < 0 ? meta.epochs.length - 1 : e;
  const rises = curves.map((curve, r) => riseOf(r, curve, last) || 0);
  mostRebounded = rises.indexOf(Math.max(...rises));
  openingEpoch = last;
  DEFAULTS.value = Math.max(...rises) > 0 ? "change" : "loss";
  DEFAULTS.runs = meta.runs.length > 1 ? "side" : "a";
  DEFAULTS.sort = meta.passages.some((p) => p.runs[mostRebounded].rebound > 0) ? "rebound" : "place";
  DEFAULTS.split = meta.splits[meta.passages[0].split];
}

/** Return the passage of a split that rebounded most; its first if none did. */
function openingPassage(split) {
  const rebound = (p) => meta.passages[p].runs[mostRebounded].rebound ?? 0;
  const here = meta.passages.map((_, p) => p).filter((p) => meta.splits[meta.passages[p].split] === split);
  return here.reduce((best, p) => (rebound(p) > rebound(best) ? p : best), here[0]);
}

/** Return the token of a passage that rebounded most; -1 if none did. */
function openingToken(head) {
  let best = -1, most = 0;
  for (let i = 0; i < head.n; i++) {
    const rebound = decode[head.runs[mostRebounded].rebound[i]];
    if (head.predicted[i] && rebound > most) { best = i; most = rebound; }
  }
  return best;
}

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

/** Take the state from the address; what is not possible there becomes the default. */
function readAddress(hash = location.hash) {
  const query = new URLSearchParams(hash.slice(1));
  const given = Object.fromEntries(Object.keys(DEFAULTS).map((key) => [key, query.get(key) ?? DEFAULTS[key]]));
  const among = (key, options) => { if (!options.includes(given[key])) given[key] = DEFAULTS[key]; };
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
  // A token of the passage that opens is chosen once its text is read, unless the address chose.
  given.opening = p < 0 && !query.has("at");
  if (p < 0) p = openingPassage(given.split);
  Object.assign(given, place(p));
  const e = meta.epochs.indexOf(Number(given.epoch));
  given.e = e < 0 ? openingEpoch : e;
  given.epoch = meta.epochs[given.e];
  given.p = p;
  Object.assign(state, given);
}
