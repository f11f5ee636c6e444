// Memory: the map of layers and heads, the curves along the text, the totals, and the falls at delimiters.

function drawMap() {
  const box = byId("map");
  if (!box) return;
  const spec = QUANTITIES.find((q) => q[0] === choice.quantity);
  const columns = layers.map((d) => d.layer);
  const rows = d3.sort(new Set(heads.map((d) => d.head)));
  const known = heads.filter((d) => d[spec[0]] !== null);
  const absent = heads.filter((d) => d[spec[0]] === null);
  const hidden = layers.filter((d) => !d.measured).flatMap((d) => rows.map((head) => ({ layer: d.layer, head, reason: d.reason })));
  const all = [...heads, ...hidden];
  const margin = { marginLeft: 44, marginRight: 4, marginTop: 18, marginBottom: 40 };
  const width = Math.max(widthOf(box), columns.length * 5 + 48);
  const cell = Math.max(rows.length > 64 ? 3 : 8, Math.min(26, 400 / rows.length));
  const top = spec[3] ? Math.min(1, d3.max(known, (d) => d[spec[0]]) ?? 1) : d3.max(known, (d) => d[spec[0]]) ?? 1;
  const inset = Math.min(0.75, cell / 16);
  // few cells have room for their numbers; the ink is what can be read on the cell's colour
  const roomy = all.length <= 64 && width / columns.length > 48;
  const ink = (d) => (d[spec[0]] > 0.55 * top) === theme.dark ? "#111" : theme.dark || d[spec[0]] > 0.45 * top ? "#fff" : "#111";
  const title = (d) => d.reason !== undefined
    ? `Layer ${d.layer}: not measured\n${d.reason}`
    : [`Layer ${d.layer}, ${unitOf.get(d.layer)} ${d.head}`,
        ...QUANTITIES.filter((q) => d[q[0]] !== null).map((q) => `${q[1]}: ${quantityText(q, d[q[0]])}`)].join("\n");
  const plot = Plot.plot({
    width,
    height: rows.length * cell + margin.marginTop + margin.marginBottom,
    ...margin,
    ariaLabel: `${spec[1]} of every layer and head`,
    x: { type: "band", domain: columns, ticks: sparse(columns, width), tickSize: 0, label: "layer", labelArrow: "none", labelAnchor: "center", labelOffset: 34, padding: 0, round: false },
    y: { type: "band", domain: rows, ticks: sparse(rows, rows.length * cell, 16), tickSize: 0, label: heads.some((d) => unitOf.get(d.layer) === "head") ? "head" : "group", labelArrow: "none", padding: 0 },
    color: { type: "linear", scheme: theme.dark ? "viridis" : "ylgnbu", domain: [0, top || 1], clamp: true },
    marks: [
      Plot.cell(absent, { x: "layer", y: "head", fill: "var(--faint)", inset }),
      Plot.cell(hidden, { x: "layer", y: "head", fill: "url(#hatch)" }),
      Plot.cell(known, { x: "layer", y: "head", fill: spec[0], inset }),
      roomy ? Plot.text(known, { x: "layer", y: "head", text: (d) => (spec[3] ? `${Math.round(100 * d[spec[0]])} %` : number(d[spec[0]])), fill: ink, fontSize: 11 }) : null,
      choice.layer === "model" ? null
        : Plot.text([choice.layer], { x: (d) => d, frameAnchor: "top", dy: -14, text: ["▾"], fontSize: 14, fill: "var(--second)" }),
      choice.layer === "model" || choice.head < 0 ? null
        : Plot.cell([choice], { x: "layer", y: "head", stroke: "var(--second)", strokeWidth: 2.5, fill: "none" }),
      Plot.tip(all, Plot.pointer({ x: "layer", y: "head", title, maxRadius: 30, fontSize: 12, lineWidth: 40, lineHeight: 1.25 })),
    ],
  });
  plot.addEventListener("click", () => {
    const d = plot.value;
    if (d && d.reason === undefined) select(d.layer, d.head);
  });
  show("map", plot);
  box.classList.toggle("wide", width > widthOf(box));
  byId("map-legend").replaceChildren(Plot.legend({
    color: { type: "linear", scheme: theme.dark ? "viridis" : "ylgnbu", domain: [0, (top || 1) * (spec[3] ? 100 : 1)] },
    label: spec[3] ? `${spec[1]}, % ${spec[2]}` : `${spec[1]}, ${spec[2]}`, width: 240, ticks: 4, tickFormat: (d) => number(d),
  }));
}

/** The chosen curve: its points, names and units. */
function chosenCurve() {
  if (choice.layer === "model") {
    const { token, ess_floats: floats } = data.memory;
    return { total: true, points: token.map((t, i) => ({ token: t, window: windowOf(t), entropy: floats[i] ?? NaN })), label: "state, floats in the whole model" };
  }
  const entry = findCurve(data.curves, choice.layer, choice.head) ?? findCurve(data.curves, choice.layer, -1);
  const list = entry ? points(data.curves, entry, ["attainable", "entropy", "tolerance"]) : [];
  return { total: false, points: list, label: "state, entries per channel" };
}

function windowGaps() {
  return windowStarts.slice(1);
}

/** Rules at the delimiters that are switched on; ticks at the foot where rules would hide the curve. */
function delimiterMarks(width, floor, ceiling) {
  return [...choice.marks].map((kind) => {
    const at = data.tokens.delimiters[kind];
    const crowded = at.length > width / 14;
    return Plot.ruleX(at, {
      x: (d) => d, stroke: "var(--muted)", strokeOpacity: kind === "sentence" ? 0.4 : 0.75, strokeWidth: kind === "document" ? 1.5 : 1,
      strokeDasharray: DASHES[kind], ...(crowded ? { y1: floor, y2: floor + 0.05 * (ceiling - floor) } : {}),
    });
  });
}

const textAxis = (width) => ({ domain: [0, Math.max(1, data.tokens.count - 1)], label: "token", labelArrow: "none", labelAnchor: "center", labelOffset: 34, ticks: Math.min(10, Math.floor(width / 80)), tickFormat: ",d" });

function drawCurve() {
  const box = byId("curve");
  if (!box) return;
  const width = widthOf(box);
  const curve = chosenCurve();
  const finite = (name) => d3.max(curve.points, (d) => d[name]) || 0;
  const highest = Math.max(finite("entropy"), finite("tolerance"), choice.log ? finite("attainable") : Math.min(finite("attainable"), 4 * finite("tolerance"))) || 1;
  const ticks = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9].filter((t) => t <= highest * 1.05);
  const ceiling = highest * 1.04;
  const parts = [];
  if (!curve.total) {
    parts.push(Plot.areaY(curve.points, { x: "token", y1: 0, y2: (d) => Math.min(d.attainable, ceiling), z: "window", fill: "var(--reach)" }));
    parts.push(Plot.lineY(curve.points, { x: "token", y: "tolerance", z: "window", stroke: "var(--second)", strokeWidth: 1, strokeOpacity: 0.9 }));
  }
  parts.push(Plot.lineY(curve.points, { x: "token", y: "entropy", z: "window", stroke: "var(--accent)", strokeWidth: 1.75, className: "entropy-curve" }));
  parts.push(Plot.dot(curve.points, Plot.pointerX({ x: "token", y: "entropy", fill: "var(--accent)", stroke: "var(--page)", r: 4.5, maxRadius: 60 })));
  const plot = Plot.plot({
    width, height: 300, marginLeft: 52, marginRight: 12, marginTop: 24, marginBottom: 40, clip: true,
    ariaLabel: `${curve.label} along the text`,
    x: textAxis(width),
    y: { type: choice.log ? "symlog" : "linear", domain: [0, ceiling], ticks: choice.log ? ticks : 6, tickFormat: (d) => number(d), label: curve.label, labelArrow: "none", grid: true },
    marks: [
      parts[0] && !curve.total ? parts.shift() : null,
      Plot.ruleX(windowGaps(), { stroke: "var(--page)", strokeWidth: 5 }),
      ...delimiterMarks(width, 0, ceiling),
      ...parts,
    ],
  });
  plot.addEventListener("input", () => sayCurve(plot.value, curve.total));
  const key = curve.total ? [["var(--accent)", "entropy-ESS summed over layers and channels"]]
    : [["var(--accent)", "entropy-ESS"], ["var(--second)", "tolerance-ESS"], ["var(--reach)", "attainable", true]];
  show("curve", plot, key);
  sayCurve(null, curve.total);
}

function sayCurve(d, total) {
  const where = choice.layer === "model" ? "Whole model"
    : choice.head < 0 ? `Layer ${choice.layer}, mean of its ${unitOf.get(choice.layer)}s` : `Layer ${choice.layer}, ${unitOf.get(choice.layer)} ${choice.head}`;
  if (!d) return say("curve-readout", [["", where], ["point at the curve to read the text there.", ""]]);
  const values = total ? [["state", `${number(d.entropy)} floats`]]
    : [["entropy-ESS", number(d.entropy)], ["tolerance-ESS", number(d.tolerance)], ["attainable", number(d.attainable)]];
  return say("curve-readout", [[where + ", token", d3.format(",")(d.token)], ...values], d.token);
}

function drawMemory() {
  const box = byId("memory");
  if (!box) return;
  const width = widthOf(box);
  const m = data.memory;
  const rows = m.token.map((token, i) => ({ token, window: windowOf(token), carried: m.ess_bytes[i] || NaN, allocated: m.cache_bytes[i] || NaN }));
  const title = (d) => `token ${d3.format(",")(d.token)}\ncarried ${bytes(d.carried)}\nallocated ${bytes(d.allocated)}`;
  const line = (y, stroke) => Plot.lineY(rows, { x: "token", y, z: "window", stroke, strokeWidth: 1.5 });
  const range = d3.extent(rows.flatMap((d) => [d.carried, d.allocated]).filter((v) => v > 0));
  const decades = d3.range(0, 48, 2).map((k) => 2 ** k).filter((v) => v >= (range[0] ?? 1) && v <= (range[1] ?? 1));
  show("memory", Plot.plot({
    width, height: 210, marginLeft: 62, marginRight: 12, marginTop: 24, marginBottom: 40, ariaLabel: "Bytes carried and allocated along the text",
    x: textAxis(width),
    y: { type: "log", base: 2, ticks: decades.length > 1 ? sparse(decades.map((_, i) => i), 150).map((i) => decades[i]) : 3, tickFormat: bytes, label: "bytes in the whole model (log)", labelArrow: "none", grid: true },
    marks: [line("allocated", "var(--muted)"), line("carried", "var(--accent)"),
      Plot.ruleX(rows, Plot.pointerX({ x: "token", stroke: "var(--line)" })),
      Plot.tip(rows, Plot.pointerX({ x: "token", y: "carried", title, fontSize: 12, lineWidth: 40 }))],
  }), [["var(--accent)", "carried (entropy-ESS)"], ["var(--muted)", "allocated by the cache"]]);
}

const KIND_COLOURS = { document: "var(--accent)", paragraph: "var(--second)", sentence: "var(--third)", user: "var(--fourth)" };

function drawModulation() {
  const model = data.modulation.filter((d) => d.layer === null);
  const deep = data.modulation.filter((d) => d.layer !== null);
  const kinds = Object.keys(KIND_COLOURS).filter((kind) => data.modulation.some((d) => d.delimiter === kind));
  const title = (d) => `${d.layer === null ? "whole model" : `layer ${d.layer}`}, ${d.delimiter} (n = ${number(d.n)})\nfalls by ${percent(d.fall)} [${percent(d.low)}, ${percent(d.high)}]`;
  const color = { domain: kinds, range: kinds.map((kind) => KIND_COLOURS[kind]) };
  const share = { tickFormat: (d) => `${Math.round(d * 100)} %`, grid: true, nice: true, labelArrow: "none" };
  const box = byId("modulation");
  if (box) {
    const width = widthOf(box);
    const labels = new Map(model.map((d) => [d.delimiter, `${d.delimiter} (n = ${number(d.n)})`]));
    show("modulation", Plot.plot({
      width, height: 60 + 48 * kinds.length, marginLeft: 132, marginRight: 20, marginTop: 12, marginBottom: 40, color, ariaLabel: "Fall of state at delimiters",
      x: { ...share, label: "fall of ESS at the delimiter", ticks: Math.floor(width / 90), labelAnchor: "center", labelOffset: 34 },
      y: { domain: kinds, label: null, tickSize: 0, tickFormat: (kind) => labels.get(kind) ?? kind },
      marks: [Plot.ruleX([0], { stroke: "var(--muted)" }),
        Plot.ruleY(model, { y: "delimiter", x1: "low", x2: "high", stroke: "delimiter", strokeWidth: 2.5 }),
        Plot.dot(model, { y: "delimiter", x: "fall", fill: "delimiter", r: 6 }),
        Plot.tip(model, Plot.pointer({ y: "delimiter", x: "fall", title, fontSize: 12, lineWidth: 40 }))],
    }));
  }
  const small = byId("modulation-layers");
  if (!small) return;
  if (!deep.length) return small.parentElement.remove();
  const width = widthOf(small);
  const range = d3.extent([0, ...deep.flatMap((d) => [d.fall, Math.max(-1, d.low ?? d.fall), Math.min(1, d.high ?? d.fall)])]);
  const pad = 0.06 * (range[1] - range[0] || 1);
  show("modulation-layers", Plot.plot({
    width, height: 50 + 72 * kinds.length, marginLeft: 48, marginRight: 84, marginTop: 24, marginBottom: 40, color, clip: true, ariaLabel: "Fall of state at delimiters by layer",
    x: { label: "layer", labelArrow: "none", labelAnchor: "center", labelOffset: 34, ticks: sparse(layers.map((d) => d.layer), width), tickFormat: "d", inset: 6 },
    y: { ...share, ticks: 3, label: "fall of ESS", domain: [range[0] - pad, range[1] + pad] }, fy: { domain: kinds, label: null, padding: 0.12 },
    marks: [Plot.ruleY([0], { stroke: "var(--muted)" }),
      Plot.ruleX(deep, { x: "layer", fy: "delimiter", y1: "low", y2: "high", stroke: "delimiter", strokeOpacity: 0.55 }),
      Plot.dot(deep, { x: "layer", fy: "delimiter", y: "fall", fill: "delimiter", r: deep.length > 90 ? 2 : 3 }),
      Plot.tip(deep, Plot.pointer({ x: "layer", fy: "delimiter", y: "fall", title, fontSize: 12, lineWidth: 40 }))],
  }));
}
