// Draws figures that are data in the vocabulary of Observable Plot, all in one look; texts become text nodes only.
// A series differs by colour and by its symbol or dash, so that it is told apart in print and by every eye.
(() => {
"use strict";
const { figures } = JSON.parse(document.getElementById("assay-data").textContent);
const LIGHT = ["#1f5fa8", "#d0661c", "#2f8f7a", "#a0559f", "#b89a1d", "#5aa7d6", "#7a3f2b", "#6d747c"];
const DARK = ["#7db3ee", "#f0965a", "#63c9b1", "#d79bd6", "#e6cf63", "#a9dcff", "#d39a86", "#a3abb4"];
const DASHES = ["none", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4"]; // one less than colours, so that they meet anew only after 56 series
const SYMBOLS = ["circle", "triangle", "square", "diamond2", "star", "wye", "cross"].map((name) => d3[`symbol${name[0].toUpperCase()}${name.slice(1)}`]);
const TIPPED = new Set(["dot", "line", "lineX", "lineY", "areaY", "barX", "barY", "rect", "rectX", "rectY", "cell"]);
const MOST = 8; // as many series as are told apart; more numbers than that become a ramp
let dark = false;

const distinct = (values) => Array.from(new Set(values));
const columns = (mark) => new Set(mark.data.flatMap((d) => (d !== null && typeof d === "object" ? Object.keys(d) : [])));
const isNumber = (value) => typeof value === "number";

function format(value) {
  if (!isNumber(value)) return String(value ?? "–");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return size >= 1e4 ? d3.format(",.0f")(value) : String(Number(value.toPrecision(4)));
}

/** The column that colours a mark, if it is one. */
const colourOf = (mark) => [mark.options.stroke, mark.options.fill].find((name) => columns(mark).has(name));

/** Colours of all marks of a figure: for each value its own, or a ramp where there are many numbers. */
function colouring(marks, given) {
  const values = distinct(marks.flatMap((mark) => mark.data.map((d) => d?.[colourOf(mark)]))).filter((v) => v !== undefined && v !== null);
  const numeric = values.length > 0 && values.every(isNumber);
  if (!values.length || given.legend === false) return { scale: given };
  const ordered = numeric ? d3.sort(values) : values;
  const ramp = (t) => d3.interpolateViridis(dark ? 0.25 + 0.75 * t : 0.78 * t);
  if (numeric && values.length > MOST) {
    return { scale: { interpolate: (t) => ramp(t), ...(given.scheme || given.range ? { interpolate: undefined } : {}), ...given, legend: false }, ramp: true };
  }
  const domain = given.domain ?? ordered;
  const colours = numeric ? d3.quantize(ramp, Math.max(2, domain.length)).slice(0, domain.length) : dark ? DARK : LIGHT;
  const range = given.range ?? domain.map((_, i) => colours[i % colours.length]);
  return { scale: { type: "ordinal", domain, range, label: given.label }, series: domain };
}

/** A mark of the figure as marks of Plot, with what all figures have: tips, filled symbols, dashes by series. */
function marksOf(mark, series) {
  const options = { ...mark.options };
  const colour = colourOf(mark);
  const own = series && colour !== undefined;
  const place = (d) => Math.max(0, series.indexOf(d[colour]));
  if (options.tip === undefined && TIPPED.has(mark.mark)) {
    options.tip = { fontSize: 12, format: { x: format, y: format, fill: format, stroke: format, symbol: false, r: format } };
    if (mark.mark === "dot" && own) options.tip.format.fill = false;
  }
  if (mark.mark === "dot") {
    if (own) options.symbol ??= colour;
    if (options.fill === undefined && options.stroke !== undefined) Object.assign(options, { fill: options.stroke, fillOpacity: 0.35 });
    options.r ??= mark.data.length > 400 ? 2.5 : 4;
  }
  if (!mark.mark.startsWith("line")) return [Plot[mark.mark](mark.data, options)];
  options.strokeWidth ??= 2;
  if (!own) return [Plot[mark.mark](mark.data, options)];
  // marker is a constant in Plot: dots of a symbol for each series are drawn in its place
  const { marker, ...plain } = options;
  const lines = series.map((one, i) => Plot[mark.mark](mark.data.filter((d) => d[colour] === one), { ...plain, tip: undefined, strokeDasharray: DASHES[i % DASHES.length] }));
  const points = { x: plain.x, y: plain.y, fx: plain.fx, fy: plain.fy };
  const dots = marker ? [Plot.dot(mark.data, { ...points, fill: colour, symbol: colour, r: 4 })] : [];
  const tips = plain.tip ? [Plot.tip(mark.data, Plot.pointer({ ...points, stroke: colour, ...plain.tip }))] : [];
  return [...lines, ...dots, ...tips];
}

/** A sample of each series, as it is drawn. */
function keyOf(figure, series, range, label) {
  const key = d3.create("div").attr("class", "key series");
  if (label) key.append("span").text(label);
  const dots = figure.marks.some((m) => m.mark === "dot" || m.options.marker);
  const lines = figure.marks.some((m) => m.mark.startsWith("line"));
  series.forEach((one, i) => {
    const entry = key.append("span");
    const sample = entry.append("svg").attr("width", lines ? 30 : 14).attr("height", 14).attr("aria-hidden", true);
    if (lines) sample.append("line").attr("x2", 30).attr("y1", 7).attr("y2", 7).attr("stroke", range[i]).attr("stroke-width", 2).attr("stroke-dasharray", DASHES[i % DASHES.length]);
    if (dots) sample.append("path").attr("transform", `translate(${lines ? 15 : 7},7)`).attr("d", d3.symbol(SYMBOLS[i % SYMBOLS.length], 50)()).attr("fill", range[i]);
    if (!lines && !dots) sample.append("rect").attr("y", 1).attr("width", 12).attr("height", 12).attr("rx", 2).attr("fill", range[i]);
    entry.append("span").text(format(one));
  });
  return key.node();
}

/** Panels side by side. */
function panels(figure) {
  return Math.max(1, ...figure.marks.map((m) => distinct(m.data.map((d) => d?.[m.options.fx])).filter((d) => d !== undefined).length));
}

/** The names of panels; numbers with what they are of. */
function facets({ label, ...given } = {}) {
  return { label: null, padding: 0.2, tickFormat: (value) => (isNumber(value) && label ? `${label} ${format(value)}` : format(value)), ...given };
}

/** An axis: its label, and ticks that can be read. */
function axis(figure, name, width) {
  const given = figure.options[name] ?? {};
  const first = figure.marks.find((m) => typeof m.options[name] === "string" && columns(m).has(m.options[name]));
  const label = given.label !== undefined ? given.label : first?.options[name] ?? null; // null: none is wanted
  const found = { labelArrow: "none", nice: true, grid: name === "y", ...given, label };
  const read = (m) => [name, `${name}1`, `${name}2`].flatMap((channel) => m.data.map((d) => d?.[m.options[channel]]));
  const values = distinct(figure.marks.flatMap(read)).filter(isNumber);
  const space = d3.max(values, Math.abs) >= 1e5 ? 90 : 60; // a tick's, by the digits of its label
  const room = name === "x" ? Math.max(2, Math.floor(width / panels(figure) / space)) : 7;
  if (given.type === "log") {
    found.nice = false;
    found.tickFormat ??= format;
    found.ticks ??= logTicks(values.filter((value) => value > 0), room);
  } else if (values.length) {
    const [low, high] = d3.extent(values);
    found.tickFormat ??= format;
    found.ticks ??= values.every(Number.isInteger) && high - low < room ? d3.range(low, high + 1) // no layer 1.5
      : name === "x" ? atMost(room, low, high) : room;
  } else {
    delete found.nice;
    Object.assign(found, roomForNames(figure, name, width));
  }
  if (name === "x") return { labelAnchor: "center", labelOffset: 36, ...found };
  return panels(figure) > 1 ? { labelAnchor: "center", labelOffset: 54, ...found } : { labelAnchor: "top", ...found }; // panels have their names at the top
}

/** Names along an axis, in the order of the data: as much margin as the longest needs; tilted where they are too wide. */
function roomForNames(figure, name, width) {
  const names = distinct(figure.marks.flatMap((m) => m.data.map((d) => d?.[m.options[name]]))).filter((d) => d !== undefined && d !== null);
  if (!names.length || !names.every((d) => typeof d === "string")) return {};
  const longest = Math.min((name === "y" ? 0.6 : 0.45) * width, 6.6 * d3.max(names, (d) => d.length));
  const found = { domain: figure.options[name]?.domain ?? names };
  if (name === "y") return { ...found, side: longest + 16 };
  if (longest < (width - 80) / names.length) return found;
  return { ...found, tickRotate: -60, side: 0.5 * longest, below: 50 + 0.87 * longest, labelOffset: 42 + 0.87 * longest };
}

/** D3 gives about as many ticks as it is asked for: what to ask for to get no more than there is room for. */
function atMost(room, low, high) {
  let asked = room;
  while (asked > 1 && d3.ticks(low, high, asked).length > room) asked -= 1;
  return asked;
}

/** D3 leaves out the labels of some ticks of a logarithmic axis: given as texts they are all there. */
function logAxis({ type, ticks, tickFormat, label, labelAnchor, labelOffset, labelArrow }, name) {
  if (type !== "log" || typeof tickFormat !== "function") return [];
  return [Plot[name === "x" ? "axisX" : "axisY"](ticks, { text: tickFormat, label, labelAnchor, labelOffset, labelArrow })];
}

/** The values, if there is room for them, between any two; or 1, 2, 5 of each decade; or the decades alone. */
function logTicks(values, room) {
  const [low, high] = d3.extent(values);
  const logs = values.map(Math.log10).sort(d3.ascending);
  const nearest = d3.min(d3.pairs(logs), ([a, b]) => b - a) ?? Infinity;
  if (values.length <= room && nearest * 1.5 * room >= Math.log10(high / low)) return values;
  const decades = d3.range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)) + 1);
  const all = (steps) => decades.flatMap((k) => steps.map((s) => Number((s * 10 ** k).toPrecision(12)))).filter((v) => v >= low * 0.999 && v <= high * 1.001);
  const fits = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]].map(all).find((ticks) => ticks.length <= room);
  const ticks = fits ?? all([1]).filter((_, i, list) => i % Math.ceil(list.length / room) === 0);
  return ticks.length > 1 ? ticks : [low, high];
}

function draw(figure, index) {
  const box = document.getElementById(`figure-${index}`);
  const width = Math.max(260, Math.floor(box.clientWidth));
  try {
    if (figure.marks.every((mark) => !mark.data.length)) throw Error("nothing was measured for it");
    const { scale, series, ramp } = colouring(figure.marks, figure.options.color ?? {});
    const symbol = series ? { symbol: { domain: series, range: series.map((_, i) => SYMBOLS[i % SYMBOLS.length]), legend: false } } : {};
    const y = axis(figure, "y", width);
    const axes = { x: axis(figure, "x", width - (y.side ?? 0)), y };
    const below = axes.x.below ?? 46;
    const plot = Plot.plot({
      height: 274 + below, marginLeft: Math.max(58, axes.x.side ?? 0, axes.y.side ?? 0), marginRight: figure.marks.some((m) => m.options.fy) ? 56 : 24, marginTop: 28, marginBottom: below, style: { fontSize: "12px" }, ariaLabel: figure.title,
      ...symbol, ...figure.options, ...axes, fx: facets(figure.options.fx), fy: facets(figure.options.fy), color: scale, width,
      marks: [...["x", "y"].flatMap((name) => logAxis(axes[name], name)), ...figure.marks.flatMap((mark) => marksOf(mark, series))],
    });
    // where an axis names the series, a key would say it twice
    const named = figure.marks.every((m) => [m.options.x, m.options.y, m.options.fx, m.options.fy, undefined].includes(colourOf(m)));
    const key = named ? null : series ? keyOf(figure, series, scale.range, scale.label ?? null)
      : ramp ? plot.legend("color", { width: 240, label: scale.label ?? figure.marks.map(colourOf).find(Boolean), tickFormat: format, ticks: 4 }) : null;
    box.replaceChildren(...(key ? [key] : []), plot);
  } catch (error) {
    const words = document.createElement("p");
    words.className = "none";
    words.textContent = `This figure cannot be drawn: ${error.message}`;
    box.replaceChildren(words);
  }
}

const drawAll = () => figures.forEach(draw);
const retheme = (now) => {
  dark = now;
  drawAll();
};
const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
prefersDark.addEventListener("change", (event) => retheme(event.matches));
window.addEventListener("beforeprint", () => retheme(false));
window.addEventListener("afterprint", () => retheme(prefersDark.matches));
retheme(prefersDark.matches);

const main = document.querySelector("main");
let last = main.clientWidth;
new ResizeObserver(() => {
  if (main.clientWidth === last) return;
  last = main.clientWidth;
  requestAnimationFrame(drawAll);
}).observe(main);
})();
