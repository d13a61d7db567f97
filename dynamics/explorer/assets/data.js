// Reading what the page holds. The layout of chunks is that of dynamics/explorer/payload.py.

const $ = (id) => document.getElementById(id);
const UNKNOWN = 255, NO_RANK = 65535, NEVER = 255, BY_EPOCH = 2;

let meta; // everything but passages' contents
let lines; // base 64, two a passage: head and body
let decode; // nats by code
const heads = []; // by passage, once read
const bodies = new Map(); // the last few that were looked at

async function inflate(base64) {
  const raw = atob(base64);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function readMeta() {
  meta = JSON.parse(new TextDecoder().decode(await inflate($("meta").textContent)));
  lines = $("chunks").textContent.split("\n");
  $("chunks").remove();
  decode = new Float32Array(256).fill(NaN);
  for (let c = 0; c < UNKNOWN; c++) decode[c] = meta.top * (c / 254) ** 2;
}

const decodeSigned = (code) => (code === 0 ? NaN : Math.sign(code - 128) * meta.top * ((code - 128) / 127) ** 2);

async function readHead(p) {
  if (heads[p]) return heads[p];
  const bytes = await inflate(lines[2 * p]);
  const words = new DataView(bytes.buffer);
  const n = words.getUint32(0, true), textBytes = words.getUint32(4, true);
  let at = 8;
  const u32 = () => { const column = new Uint32Array(bytes.buffer, at, n); at += 4 * n; return column; };
  const u8 = () => { const column = bytes.subarray(at, at + n); at += n; return column; };
  const head = { n, start: u32(), end: u32(), sequence: u32(), tokenId: u32(), position: u32() };
  head.rank = new Uint16Array(bytes.buffer, at, n);
  at += 2 * n;
  for (const name of ["referenceLoss", "referenceEntropy", "bucket", "predicted"]) head[name] = u8();
  head.runs = meta.runs.map(() => {
    const fates = {};
    for (const name of ["mayDrop", "rebound", "gap", "firstLearned", "forgetting", "kind"]) fates[name] = u8();
    return fates;
  });
  head.bytes = bytes.subarray(at, at + textBytes);
  heads[p] = head;
  return head;
}

async function readBody(p) {
  if (bodies.has(p)) return bodies.get(p);
  const head = await readHead(p);
  const bytes = await inflate(lines[2 * p + 1]);
  const n = head.n, E = meta.epochs.length, row = (n + 7) >> 3;
  const train = meta.splits[meta.passages[p].split] === "train";
  let at = 0;
  const codes = () => {
    const columns = bytes.subarray(at, at + E * n); // sums of differences modulo 256
    for (let i = n; i < E * n; i++) columns[i] += columns[i - n];
    at += E * n;
    return (e) => columns.subarray(e * n, (e + 1) * n);
  };
  const bits = () => {
    const from = at;
    at += E * row;
    return (e, i) => (bytes[from + e * row + (i >> 3)] >> (i & 7)) & 1;
  };
  const body = meta.runs.map(() => ({
    loss: codes(), entropy: codes(), correct: bits(), dropped: train ? bits() : () => 0,
  }));
  bodies.set(p, body);
  if (bodies.size > 6) bodies.delete(bodies.keys().next().value);
  return body;
}

const passageIndex = (split, document, part) =>
  meta.passages.findIndex((p) => meta.splits[p.split] === split && p.document === document && p.part === part);

function passageName(p) {
  const { split, document, part, parts } = meta.passages[p];
  return `${meta.splits[split]} document ${document}${parts > 1 ? `, part ${part + 1} of ${parts}` : ""}`;
}
