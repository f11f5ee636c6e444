// Wires the page: selectors, theme, size, print.

function option(value, label, disabled = false) {
  return element("option", { value: String(value), disabled }, label);
}

function fillSelectors() {
  const quantity = byId("quantity");
  if (quantity) {
    const known = QUANTITIES.filter(([name]) => heads.some((d) => d[name] !== null));
    quantity.replaceChildren(...known.map(([name, label]) => option(name, label)));
    choice.quantity = known.some(([name]) => name === choice.quantity) ? choice.quantity : known[0]?.[0] ?? choice.quantity;
    quantity.value = choice.quantity;
    quantity.addEventListener("change", () => {
      choice.quantity = quantity.value;
      drawMap();
    });
  }
  const layer = byId("layer");
  if (!layer) return;
  layer.replaceChildren(option("model", "whole model: total floats"),
    ...layers.map((d) => option(d.layer, `layer ${d.layer}${d.measured ? "" : " (not measured)"}`, !d.measured)));
  layer.addEventListener("change", () => select(layer.value === "model" ? "model" : Number(layer.value), -1));
  byId("head").addEventListener("change", (event) => select(choice.layer, Number(event.target.value)));
  byId("log").addEventListener("change", (event) => {
    choice.log = event.target.checked;
    drawCurve();
  });
  fillDelimiters();
}

/** A switch and a sample of its line for each kind of delimiter in the text. */
function fillDelimiters() {
  for (const [kind, dash] of Object.entries(DASHES)) {
    const count = data.tokens.delimiters[kind]?.length;
    if (!count) continue;
    // many rules hide the curve: those start switched off
    if (count <= 150 || kind !== "sentence") choice.marks.add(kind);
    const box = element("input", { type: "checkbox", checked: choice.marks.has(kind) });
    box.addEventListener("change", () => {
      if (box.checked) choice.marks.add(kind);
      else choice.marks.delete(kind);
      drawCurve();
    });
    const sample = d3.create("svg").attr("width", 10).attr("height", 16);
    sample.append("line").attr("x1", 5).attr("x2", 5).attr("y2", 16).attr("stroke", "currentColor").attr("stroke-width", 1.5).attr("stroke-dasharray", dash);
    byId("delimiters").append(element("label", { className: "check" }, box, sample.node(), `${kind} ends`));
  }
}

/** Follow this layer and head ("model", -1 = mean) in every chart along the text. */
function select(layer, head) {
  choice.layer = layer;
  choice.head = head;
  const box = byId("head");
  if (box) {
    const own = heads.filter((d) => d.layer === layer);
    const unit = unitOf.get(layer) ?? "head";
    const single = own.filter((d) => findCurve(data.curves, layer, d.head));
    box.replaceChildren(option(-1, layer === "model" ? "all heads: sum" : `all ${unit}s of the layer: mean${single.length ? "" : " (too many to keep each)"}`), ...single.map((d) => option(d.head, `${unit} ${d.head}`)));
    box.disabled = layer === "model";
    if (!single.some((d) => d.head === head)) choice.head = -1;
    box.value = String(choice.head);
    byId("layer").value = String(layer);
  }
  drawMap();
  drawCurve();
  drawEntropy();
}

const charts = [drawMap, drawCurve, drawMemory, drawModulation, drawAttention, drawEntropy, drawGeometry, drawStrip, drawRecall];
const drawAll = () => charts.forEach((draw) => draw());

/** The layer that carries most, so that the first curve has something to show; the total where there is none. */
function firstChoice() {
  const means = d3.rollup(heads.filter((d) => d.entropy_ess !== null), (list) => d3.mean(list, (d) => d.entropy_ess), (d) => d.layer);
  const best = d3.greatest(means, ([, mean]) => mean);
  return best && isMeasured.get(best[0]) ? best[0] : "model";
}

const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
theme.dark = prefersDark.matches;
const retheme = (dark) => {
  if (theme.dark === dark) return;
  theme.dark = dark;
  drawAll();
};
prefersDark.addEventListener("change", (event) => retheme(event.matches));
window.addEventListener("beforeprint", () => retheme(false));
window.addEventListener("afterprint", () => retheme(prefersDark.matches));

fillSelectors();
const start = firstChoice();
// where little of the attainable state is used, a linear axis would press the curve to the floor
choice.log = (d3.mean(heads.filter((d) => d.layer === start), (d) => d.utilisation) ?? 1) < 0.25;
if (byId("log")) byId("log").checked = choice.log;
select(start, -1);
drawAll();

let lastWidth = document.querySelector("main").clientWidth;
let pending = 0;
new ResizeObserver(() => {
  const width = document.querySelector("main").clientWidth;
  if (width === lastWidth) return;
  lastWidth = width;
  cancelAnimationFrame(pending);
  pending = requestAnimationFrame(drawAll);
}).observe(document.querySelector("main"));
