// The data of the page, the choices of the reader, and small helpers. Texts become text nodes only, never markup.

const data = JSON.parse(document.getElementById("assay-data").textContent);
const byId = (id) => document.getElementById(id);
const QUANTITIES = [
  ["utilisation", "Utilisation", "of attainable state", true],
  ["entropy_ess", "Entropy-ESS", "entries per channel", false],
  ["tolerance_ess", "Tolerance-ESS", "entries per channel", false],
  ["normalised_entropy", "Attention entropy", "of its maximum", true],
  ["first_token_mass", "Mass on the first token", "of attention", true],
  ["previous_token_mass", "Mass on the previous token", "of attention", true],
];
const REGIMES = ["collapse", "low", "high", "overload"];
const DASHES = { document: null, paragraph: "7 4", sentence: "2 3", user: "9 3 2 3" };

// what is looked at: layer "model" or a number; head -1 is the mean over the layer's heads
const choice = { quantity: "utilisation", layer: "model", head: -1, log: false, marks: new Set() };
const theme = { dark: false };

const layers = data.layers;
const isMeasured = new Map(layers.map((d) => [d.layer, d.measured]));
const heads = data.heads.layer.map((layer, i) => {
  const row = { layer, head: data.heads.head[i], regime: data.heads.regime[i], attention_entropy: data.heads.attention_entropy[i] };
  for (const [name] of QUANTITIES) row[name] = data.heads[name][i];
  return row;
});
const unitOf = new Map(layers.map((d) => [d.layer, d.kind === "recurrence" ? "group" : "head"]));

/** 16-bit integers with a scale -> numbers, missing ones as NaN. */
function unpack([scale, text]) {
  const raw = atob(text);
  const values = new Float64Array(raw.length / 2);
  for (let i = 0; i < values.length; i++) {
    const code = raw.charCodeAt(2 * i) | (raw.charCodeAt(2 * i + 1) << 8);
    values[i] = code === 65535 ? NaN : code * scale;
  }
  return values;
}

const windowStarts = data.tokens.windows;
const windowOf = (token) => d3.bisectRight(windowStarts, token) - 1;
const windowEnd = (w) => (w + 1 < windowStarts.length ? windowStarts[w + 1] : data.tokens.count);

/** The text of a token, or undefined where the page does not hold it. */
const textOf = (token) => data.tokens.vocabulary[data.tokens.codes[token]];

/** Points of one curve: `names` are the columns after the grid. */
function points(set, entry, names) {
  const grid = set.grids[entry[2]];
  const columns = names.map((name, i) => {
    const cell = entry[3 + i];
    return unpack(name === "attainable" ? set.limits[cell] : cell);
  });
  return Array.from(grid, (token, i) => {
    const point = { token, window: windowOf(token) };
    names.forEach((name, k) => (point[name] = columns[k][i]));
    return point;
  });
}

const findCurve = (set, layer, head) =>
  head < 0 ? set.layers.find((c) => c[0] === layer) : set.heads.find((c) => c[0] === layer && c[1] === head);

function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e4) return d3.format(".3s")(value).replace("G", " G").replace("M", " M").replace("k", " k");
  return size >= 1000 ? d3.format(",.0f")(value) : String(Number(value.toPrecision(3)));
}
const percent = (value) =>
  value === null || value === undefined || Number.isNaN(value) ? "–" : `${Number((100 * value).toPrecision(value >= 0.1 ? 3 : 2))} %`;
function bytes(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const k = Math.max(0, Math.min(units.length - 1, Math.floor(Math.log2(Math.max(value, 1)) / 10)));
  return `${number(value / 1024 ** k)} ${units[k]}`;
}
const quantityText = (spec, value) => (spec[3] ? percent(value) : number(value));

/** An element with children; strings become text nodes. */
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  Object.assign(node, properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A token between its neighbours in the same window, the token itself marked. */
function context(token, reach = 5) {
  if (textOf(token) === undefined) return element("span", {}, `token ${token}`);
  const w = windowOf(token);
  const from = Math.max(windowStarts[w], token - reach);
  const to = Math.min(windowEnd(w) - 1, token + reach);
  const join = (a, b) => d3.range(a, b).map((i) => textOf(i) ?? "").join("");
  return element("span", { className: "context" }, from > windowStarts[w] ? "…" : "", join(from, token),
    element("mark", {}, textOf(token)), join(token + 1, to + 1), to < windowEnd(w) - 1 ? "…" : "");
}

/** One line above a chart: parts are [label, value] pairs, then the token in its context. */
function say(id, parts, token) {
  const box = byId(id);
  if (!box) return;
  const line = parts.flatMap(([label, value], i) => [i ? " · " : "", `${label} `, element("b", {}, value)]);
  box.replaceChildren(element("span", {}, ...line), ...(token === undefined ? [] : [element("br"), context(token)]));
}

const widthOf = (box) => Math.max(260, Math.floor(box.clientWidth));

/** Replaces what a box shows; `key` is a list of [colour, label, is it an area]. */
function show(id, plot, key) {
  const box = byId(id);
  if (!box) return;
  const entries = (key ?? []).map(([colour, label, area]) => {
    const swatch = element("i", { className: area ? "area" : "" });
    swatch.style.background = colour;
    return element("span", {}, swatch, label);
  });
  box.replaceChildren(...(entries.length ? [element("div", { className: "key" }, ...entries)] : []), plot);
}

/** Every k-th value, so that labels keep at least `gap` pixels. */
function sparse(values, width, gap = 26) {
  const step = Math.max(1, Math.ceil((values.length * gap) / width));
  const nice = [1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100].find((k) => k >= step) ?? step;
  return values.filter((value, i) => (Number.isInteger(value) ? value % nice === 0 : i % nice === 0));
}
