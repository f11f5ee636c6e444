// The index: shows the claims that fit what is searched and chosen, and the studies that have any.
(() => {
"use strict";
const byId = (id) => document.getElementById(id);
const fields = ["search", "family", "verdict", "year"];
const cards = Array.from(document.querySelectorAll(".card"), (node) => ({
  node,
  words: node.querySelector(".about").textContent.toLowerCase(),
  claims: Array.from(node.querySelectorAll(".claims li"), (line) => ({ line, words: line.textContent.toLowerCase() })),
}));
const total = cards.reduce((sum, card) => sum + card.claims.length, 0);

function filter() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [family, verdict, year] = fields.slice(1).map((id) => byId(id).value);
  let left = 0;
  for (const card of cards) {
    const own = (!family || card.node.dataset.family === family) && (!year || card.node.dataset.year === year);
    let shown = 0;
    for (const { line, words: text } of card.claims) {
      const fits = own && (!verdict || line.dataset.verdict === verdict)
        && words.every((word) => text.includes(word) || card.words.includes(word));
      line.hidden = !fits;
      shown += fits;
    }
    card.node.hidden = !shown;
    left += shown;
  }
  byId("found").textContent = left === total ? `${total} claims` : `${left} of ${total} claims`;
  byId("nothing").hidden = left > 0 || !total;
}

for (const id of fields) byId(id).addEventListener(id === "search" ? "input" : "change", filter);
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("reset").addEventListener("click", () => {
  for (const id of fields) byId(id).value = "";
  filter();
  byId("search").focus();
});
byId("filter").hidden = false;
filter(); // a browser may have kept what was chosen before
})();
