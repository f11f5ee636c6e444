// Attention, geometry, uncertainty and recall.

function drawAttention() {
  const box = byId("attention");
  if (!box) return;
  const width = widthOf(box);
  const rows = heads.filter((d) => d.attention_entropy !== null);
  const largest = d3.max(rows, (d) => d.attention_entropy) || 1;
  const perLayer = d3.rollup(rows, (list) => list.length, (d) => d.layer);
  // heads side by side within their layer's column, in order, so that none hides another
  const place = (d) => d.layer + (perLayer.get(d.layer) > 1 ? (d.head / (perLayer.get(d.layer) - 1) - 0.5) * 0.62 : 0);
  const bands = d3.range(4).map((k) => ({ low: (largest * k) / 4, high: (largest * (k + 1)) / 4, name: REGIMES[k], n: rows.filter((d) => d.regime === k).length }));
  const narrow = width < 560;
  const title = (d) => `layer ${d.layer}, head ${d.head}: ${REGIMES[d.regime] ?? ""}\nentropy ${number(d.attention_entropy)} nats (${percent(d.normalised_entropy)} of its maximum)\nfirst token ${percent(d.first_token_mass)}, previous token ${percent(d.previous_token_mass)}`;
  const color = { type: "linear", scheme: theme.dark ? "viridis" : "ylgnbu", domain: theme.dark ? [-0.15, 1] : [-0.25, 1] };
  const plot = Plot.plot({
    width, height: 320, marginLeft: 44, marginRight: narrow ? 64 : 90, marginTop: 24, marginBottom: 40, color, ariaLabel: "Attention entropy of every head by layer",
    x: { label: "layer", labelArrow: "none", labelAnchor: "center", labelOffset: 34, domain: [d3.min(layers, (d) => d.layer) - 0.5, d3.max(layers, (d) => d.layer) + 0.5], ticks: sparse(layers.map((d) => d.layer), width), tickFormat: "d", tickSize: 0 },
    y: { label: "attention entropy, nats", labelArrow: "none", domain: [0, largest * 1.03], ticks: 6 },
    marks: [
      Plot.rect(bands.filter((_, k) => k % 2 === 0), { y1: "low", y2: "high", fill: "var(--faint)", fillOpacity: 0.55 }),
      Plot.dot(rows, { x: place, y: "attention_entropy", fill: "first_token_mass", stroke: "var(--muted)", strokeWidth: rows.length > 600 ? 0.2 : 0.4, r: rows.length > 600 ? 2.2 : rows.length > 200 ? 3.2 : 4.5 }),
      Plot.text(bands, { y: (d) => (d.low + d.high) / 2, frameAnchor: "right", textAnchor: "start", dx: narrow ? 6 : 10, text: (d) => `${d.name}\n${d.n} ${d.n === 1 ? "head" : "heads"}`, fill: "var(--muted)", lineHeight: 1.25 }),
      Plot.tip(rows, Plot.pointer({ x: place, y: "attention_entropy", title, fontSize: 12, lineWidth: 40 })),
    ],
  });
  show("attention", plot);
  byId("attention-legend").replaceChildren(Plot.legend({
    color: { type: "linear", range: theme.dark ? d3.quantize((t) => d3.interpolateViridis(0.13 + 0.87 * t), 12) : d3.quantize((t) => d3.interpolateYlGnBu(0.2 + 0.8 * t), 12), domain: d3.range(12).map((k) => (100 * k) / 11) },
    label: "attention on the first token, %", width: 240, tickValues: [0, 25, 50, 75, 100], tickFormat: "d",
  }));
}

function drawEntropy() {
  const box = byId("entropy");
  if (!box) return;
  const width = widthOf(box);
  let layer = choice.layer;
  if (layer === "model" || !data.entropy.layers.some((c) => c[0] === layer)) layer = data.entropy.layers[0][0];
  const head = layer === choice.layer ? choice.head : -1;
  const single = findCurve(data.entropy, layer, head) ?? findCurve(data.entropy, layer, -1);
  const rows = points(data.entropy, single, ["entropy"]);
  const mean = single[1] < 0 ? [] : points(data.entropy, findCurve(data.entropy, layer, -1), ["entropy"]);
  const title = (d) => `token ${d3.format(",")(d.token)}${textOf(d.token) === undefined ? "" : ` “${textOf(d.token).trim()}”`}\n${percent(d.entropy)} of the maximum`;
  const key = [["var(--accent)", `layer ${layer}, ${single[1] < 0 ? "mean of its heads" : `head ${single[1]}`}`]];
  if (mean.length) key.push(["var(--line)", "mean of the layer's heads"]);
  show("entropy", Plot.plot({
    width, height: 190, marginLeft: 52, marginRight: 12, marginTop: 24, marginBottom: 40, ariaLabel: "Attention entropy along the text",
    x: textAxis(width),
    y: { domain: [0, 1], ticks: 4, tickFormat: (d) => `${Math.round(100 * d)} %`, label: "entropy, % of its maximum", labelArrow: "none", grid: true },
    marks: [Plot.lineY(mean, { x: "token", y: "entropy", z: "window", stroke: "var(--line)", strokeWidth: 1.25 }),
      Plot.lineY(rows, { x: "token", y: "entropy", z: "window", stroke: "var(--accent)", strokeWidth: 1.25 }),
      Plot.tip(rows, Plot.pointerX({ x: "token", y: "entropy", title, fontSize: 12, lineWidth: 40 }))],
  }), key);
}

function drawGeometry() {
  const box = byId("rankme");
  if (!box) return;
  const g = data.geometry;
  const rows = g.layer.map((layer, i) => Object.fromEntries(Object.keys(g).map((name) => [name, g[name][i]])));
  const width = widthOf(box);
  const x = { label: "layer (0 = embedding)", labelArrow: "none", labelAnchor: "center", labelOffset: 34, ticks: sparse(g.layer, width, 32), tickFormat: "d", inset: 6 };
  const frame = { width, marginLeft: 48, marginRight: 14, marginTop: 24, marginBottom: 40 };
  const rank = (y, stroke) => [Plot.lineY(rows, { x: "layer", y, stroke, strokeWidth: 1.75 }), Plot.dot(rows, { x: "layer", y, fill: stroke, r: rows.length > 30 ? 2 : 3 })];
  const dimension = rows.find((d) => d.dimension !== null)?.dimension;
  show("rankme", Plot.plot({
    ...frame, height: 260, x, ariaLabel: "RankMe by layer", y: { label: `effective dimensions (of ${number(dimension)})`, labelArrow: "none", grid: true, zero: true, ticks: 6 },
    marks: [...rank("rankme_singular_values", "var(--second)"), ...rank("rankme_eigenvalues", "var(--accent)"),
      Plot.tip(rows, Plot.pointerX({ x: "layer", y: "rankme_eigenvalues", fontSize: 12, lineWidth: 40, title: (d) => `layer ${d.layer}\nsingular values ${number(d.rankme_singular_values)}\neigenvalues ${number(d.rankme_eigenvalues)}\n${number(d.num_samples)} token states` }))],
  }), [["var(--second)", "of singular values (Garrido 2023)"], ["var(--accent)", "of covariance eigenvalues (Li 2025)"]]);
  if (!byId("alpha")) return;
  const fits = rows.filter((d) => d.alpha_req !== null);
  const poor = (d) => d.alpha_r2 !== null && d.alpha_r2 < 0.95;
  show("alpha", Plot.plot({
    ...frame, width: widthOf(byId("alpha")), height: 260, x, ariaLabel: "alpha-ReQ by layer", y: { label: "α-ReQ, exponent of the decay", labelArrow: "none", grid: true, nice: true, ticks: 6 },
    marks: [Plot.lineY(fits, { x: "layer", y: "alpha_req", stroke: "var(--accent)", strokeWidth: 1.5 }),
      Plot.dot(fits, { x: "layer", y: "alpha_req", fill: (d) => (poor(d) ? "var(--page)" : "var(--accent)"), stroke: "var(--accent)", strokeWidth: 1.5, r: rows.length > 30 ? 2.5 : 3.5 }),
      Plot.tip(fits, Plot.pointerX({ x: "layer", y: "alpha_req", fontSize: 12, lineWidth: 40, title: (d) => `layer ${d.layer}\nα ${number(d.alpha_req)}, R² ${number(d.alpha_r2)}\nfitted to ranks ${number(d.fit_first)} to ${number(d.fit_last)}` }))],
  }), [["var(--accent)", `R² ${d3.extent(fits, (d) => d.alpha_r2).map(number).join(" to ")}; open dots: R² under 0.95`]]);
}

/** The text in tokens, each tinted by its surprisal; drawn once, since only the page's colours change. */
function drawStrip() {
  const box = byId("strip");
  if (!box || box.childNodes.length) return;
  const u = data.uncertainty;
  const scale = Math.ceil(Math.max(4, d3.quantile(u.surprisal.filter((v) => v !== null), 0.98) ?? 4));
  const rank = new Map(u.token.map((token, i) => [token, i]));
  for (const [i, token] of u.token.entries()) {
    const text = textOf(token);
    if (text === undefined) break;
    if (i && windowOf(token) !== windowOf(u.token[i - 1])) box.append("\n\n");
    const span = element("span", {}, text);
    span.dataset.token = token;
    if (u.surprisal[i] !== null) span.style.backgroundColor = `rgba(var(--tint), ${(0.75 * Math.min(1, u.surprisal[i] / scale)).toFixed(3)})`;
    box.append(span);
    if (text.includes("⏎")) box.append("\n");
  }
  const hint = () => say("strip-readout", [["Point at a token to read its surprisal.", ""]]);
  const over = (event) => {
    const token = Number(event.target.dataset.token ?? NaN);
    const i = rank.get(token);
    if (i === undefined) return hint();
    return say("strip-readout", [["token", d3.format(",")(token)], ["surprisal", `${number(u.surprisal[i])} bits`], ["predictive entropy", `${number(u.predictive_entropy[i])} bits`]], token);
  };
  box.addEventListener("pointerover", over);
  box.addEventListener("click", over);
  hint();
  const more = data.tokens.count - u.token.length;
  byId("strip-legend").replaceChildren("0 bits", element("span", { className: "ramp" }), `${number(scale)} bits and more.`,
    more > 0 ? ` The first ${d3.format(",")(u.token.length)} of ${d3.format(",")(data.tokens.count)} tokens.` : "");
}

function drawRecall() {
  const box = byId("recall");
  if (!box) return;
  const width = widthOf(box);
  const { hits, other, hit } = data.recall;
  const label = (d) => (d.from === d.to ? String(d.from) : `${d.from}–${d.to}`);
  const title = (d) => `${label(d)} tokens ago (n = ${d.n})\n${number(d.mean)} bits [${number(d.low)}, ${number(d.high)}]`;
  const marks = [];
  if (other.mean !== null) {
    if (other.low !== null) marks.push(Plot.rect([other], { y1: "low", y2: "high", fill: "var(--muted)", fillOpacity: 0.18 }));
    marks.push(Plot.ruleY([other.mean], { stroke: "var(--muted)", strokeWidth: 1.5 }));
  }
  show("recall", Plot.plot({
    width, height: 250, marginLeft: 44, marginRight: 14, marginTop: 24, marginBottom: 40, ariaLabel: "Surprisal of recall hits by distance",
    x: { type: "point", domain: hits.map(label), label: "tokens since the bigram's last occurrence", labelArrow: "none", labelAnchor: "center", labelOffset: 34, padding: 0.6, tickSize: 0, ticks: sparse(d3.range(hits.length), width, 64).map((i) => label(hits[i])) },
    y: { label: "surprisal, bits", labelArrow: "none", grid: true, zero: true, ticks: 6 },
    marks: [...marks,
      Plot.ruleX(hits.filter((d) => d.low !== null), { x: label, y1: "low", y2: "high", stroke: "var(--accent)", strokeWidth: 2.5, strokeOpacity: 0.6 }),
      Plot.lineY(hits, { x: label, y: "mean", stroke: "var(--accent)", strokeWidth: 1 }),
      Plot.dot(hits, { x: label, y: "mean", fill: (d) => (d.low === null ? "var(--page)" : "var(--accent)"), stroke: "var(--accent)", r: 4.5 }),
      Plot.tip(hits, Plot.pointerX({ x: label, y: "mean", title, fontSize: 12, lineWidth: 40 }))],
  }), [["var(--accent)", `hits (n = ${d3.format(",")(hit.n)})`], ["var(--muted)", `other tokens (n = ${d3.format(",")(other.n)})`]]);
}
