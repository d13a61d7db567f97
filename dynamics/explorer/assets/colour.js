// Values as colours. A scale is fixed for the whole page: the same colour means the same in every epoch and run.

const VALUES = {
  loss: { title: "loss", kind: "sequential" },
  entropy: { title: "entropy", kind: "sequential" },
  reference: { title: "reference entropy", kind: "sequential", span: "entropy" },
  change: { title: "change since the best epoch", kind: "diverging" },
  gap: { title: "gap to the reference loss", kind: "diverging" },
  overconfidence: { title: "overconfidence (loss minus entropy)", kind: "diverging" },
  class: { title: "trajectory class", kind: "classes" },
};

// One hue of rising strength, and blue against orange: told apart by colour-blind readers, and in grey by strength.
const STOPS = {
  light: { sequential: ["#ffffff", "#fde3bd", "#f7b267", "#d9731a", "#9c4200", "#5c2400"], diverging: ["#0b4a8f", "#5b9bd5", "#c9def2", "#ffffff", "#fbd3b0", "#e08a3c", "#9c4200"] },
  dark: { sequential: ["#14161a", "#3a2412", "#7a4413", "#c2721f", "#f0a850", "#ffe2b8"], diverging: ["#a8d4ff", "#4f93d8", "#1f3f63", "#14161a", "#5c3413", "#d07a2a", "#ffd0a0"] },
};
const CLASSES = {
  light: ["#9fd3e8", "#e6e8eb", "#f2b37e", "#8c6bb1", "#b3004b", "#ffffff"],
  dark: ["#2b6f8a", "#33373f", "#a8642b", "#b79bd9", "#ff8fb8", "#14161a"],
};
const STEPS = 64;

const theme = () => (document.documentElement.classList.contains("dark") ? "dark" : "light");
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

function luminance([r, g, b]) {
  const linear = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
}

// Black or white, whichever can be read better.
const inkOn = (color) => (luminance(color) > 0.179 ? "#000000" : "#ffffff");
const cell = (color) => ({ back: `rgb(${color.join(" ")})`, ink: inkOn(color) });

function ramp(stops) {
  const colors = stops.map(rgb);
  return Array.from({ length: STEPS }, (_, i) => {
    const at = (i / (STEPS - 1)) * (colors.length - 1), k = Math.min(Math.floor(at), colors.length - 2);
    return cell(colors[k].map((c, j) => Math.round(c + (at - k) * (colors[k + 1][j] - c))));
  });
}

const palettes = {};
function palette(kind) {
  const key = theme() + kind;
  return (palettes[key] ??= kind === "classes" ? CLASSES[theme()].map((hex) => cell(rgb(hex))) : ramp(STOPS[theme()][kind]));
}

/** Return the scale of a value, as it is or as a difference of two runs. */
function scaleOf(value, difference) {
  const { title, kind, span } = VALUES[value];
  if (difference && kind === "classes") return { title: "trajectory classes", kind: "classes", labels: ["the same", "not the same"], colors: [5, 4] };
  if (kind === "classes") return { title, kind, labels: meta.classes, colors: meta.classes.map((_, k) => k) };
  if (difference && value === "reference") return { title: "reference entropy", kind, low: 0, high: meta.colours.entropy };
  if (difference) return { title: `difference of ${title}`, kind: "diverging", low: -meta.colours.difference, high: meta.colours.difference };
  const high = meta.colours[span ?? value];
  return { title, kind, low: kind === "diverging" ? -high : 0, high };
}

/** Return the colour of a value under a scale; null where there is none. */
function colourOf(x, scale) {
  if (Number.isNaN(x)) return null;
  if (scale.kind === "classes") return palette("classes")[scale.colors[x]];
  const share = (x - scale.low) / (scale.high - scale.low);
  return palette(scale.kind)[Math.round(Math.min(1, Math.max(0, share)) * (STEPS - 1))];
}

function drawLegend(element, scale) {
  element.replaceChildren();
  element.append(node("span", "legend-title", `${scale.title}: `));
  if (scale.kind === "classes") {
    scale.labels.forEach((label, k) => element.append(swatch(label, palette("classes")[scale.colors[k]])));
    element.setAttribute("aria-label", `Colours: ${scale.title}: ${scale.labels.join(", ")}`);
    return;
  }
  const bar = document.createElement("span");
  bar.className = "ramp";
  for (let i = 0; i < STEPS; i += 2) {
    const step = document.createElement("i");
    step.style.background = palette(scale.kind)[i].back;
    bar.append(step);
  }
  const low = scale.low ? `\u2264 ${signed(scale.low)}` : "0", high = `\u2265 ${scale.low ? signed(scale.high) : scale.high.toFixed(1)} nats`;
  element.append(low, bar, high);
  element.setAttribute("aria-label", `Colours: ${scale.title} from ${low} to ${high}`);
}

function swatch(label, color) {
  const one = document.createElement("span");
  one.className = "swatch";
  one.textContent = label;
  one.style.background = color.back;
  one.style.color = color.ink;
  return one;
}

const signed = (x, digits = 1) => (x > 0 ? "+" : x < 0 ? "\u2212" : "") + Math.abs(x).toFixed(digits);
