// Fusion chooser: three noisy modalities of one item, four ways to fuse them, and whom each of them believes.
// One ES module in anywidget's form, with no dependency. The mathematics is exported and held to torch by tests.

// ---- shared: the same text in every figure, held equal by a test
const STYLE = `
.mmt{color-scheme:light dark;--ground:light-dark(#fff,#171a1f);--ink:light-dark(#1b1b1b,#f1f1f1);--soft:light-dark(#555,#b6bcc6);
--line:light-dark(#d3d7dd,#414853);--fill:light-dark(#f3f5f8,#22272e);--cool:light-dark(#0072b2,#56b4e9);--warm:light-dark(#d55e00,#e69f00);
font:14px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--ground);border:1px solid var(--line);border-radius:10px;
padding:12px 14px;box-sizing:border-box;max-width:780px;text-align:left}
[data-theme=light] .mmt,[data-jp-theme-light=true] .mmt{color-scheme:light}
[data-theme=dark] .mmt,[data-jp-theme-light=false] .mmt,.vscode-dark .mmt{color-scheme:dark}
.mmt *{box-sizing:border-box}.mmt svg{display:block;width:100%;overflow:visible}.mmt svg text{fill:var(--ink);font:12px system-ui,sans-serif}
.mmt .soft,.mmt svg .soft{color:var(--soft);fill:var(--soft)}.mmt .row{display:flex;flex-wrap:wrap;gap:6px 18px;align-items:center;margin:0 0 10px}
.mmt label{display:inline-flex;gap:6px;align-items:center;margin:0;font-weight:400}.mmt input{accent-color:var(--cool);margin:0}
.mmt input[type=range]{width:150px;height:22px}.mmt input[type=checkbox]{width:18px;height:18px}.mmt output{min-width:3.2em;font-variant-numeric:tabular-nums}
.mmt button,.mmt select{font:inherit;color:var(--ink);background:var(--fill);border:1px solid var(--line);border-radius:6px;padding:3px 10px;min-height:28px;cursor:pointer}
.mmt :focus-visible{outline:3px solid var(--warm);outline-offset:2px}.mmt .head{font-weight:600;margin:0 0 2px}.mmt p{margin:8px 0 0;max-width:none}
.mmt details{margin-top:8px}.mmt summary{cursor:pointer;color:var(--soft)}.mmt .scroll{overflow-x:auto;max-height:320px}
.mmt table{border-collapse:collapse;font-size:13px;display:table;margin:6px 0 0}.mmt caption{text-align:left;color:var(--soft);caption-side:top;padding:0 0 4px}
.mmt th,.mmt td{padding:2px 10px 2px 0;border:0;border-bottom:1px solid var(--line);text-align:left;background:none;color:inherit;font-variant-numeric:tabular-nums}
`;
const SVG = new Set(["svg", "g", "rect", "line", "path", "circle", "text"]);
// An element of HTML or SVG: `text` is its content, `on…` its listeners, everything else an attribute.
function make(tag, given = {}, ...kids) {
  const e = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  return e.append(...kids), set(e, given);
}
function set(e, given) {
  for (const [name, value] of Object.entries(given)) {
    if (name === "text") { if (e.textContent !== String(value)) e.textContent = value; }
    else if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else if (value === false || value == null) e.removeAttribute(name);
    else e.setAttribute(name, value === true ? "" : value);
  }
  return e;
}
function slider(label, range, input) {
  const bar = make("input", { type: "range", ...range, oninput: () => input(Number(bar.value)) }), out = make("output");
  const show = (value, text) => { bar.value = value; set(bar, { "aria-valuetext": text }); set(out, { text }); };
  return { show, bar, part: make("label", {}, make("span", { text: label }), bar, out) };
}
function table(caption, heads, rows) {
  const line = (kind, cells) => make("tr", {}, ...cells.map((text, i) => i && kind === "td" ? make("td", { text })
    : make("th", { text, scope: kind === "td" ? "row" : "col" })));
  return make("table", {}, make("caption", { text: caption }), make("thead", {}, line("th", heads)),
    make("tbody", {}, ...rows.map(r => line("td", r))));
}
// The frame of a figure: draws now, when a value of the model changes and when the width does; returns the way to end it.
function frame(model, el, label, names, parts, draw) {
  const numbers = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "the numbers" });
  const root = make("div", { class: "mmt", role: "group", "aria-label": label }, make("style", { text: STYLE }), ...parts,
    make("details", {}, make("summary", { text: "The numbers" }), numbers));
  const redraw = () => root.isConnected && numbers.replaceChildren(draw());
  let width = 0;
  const watch = new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; redraw(); } });
  names.forEach(n => model.on("change:" + n, redraw));
  el.append(root), redraw(), watch.observe(root);
  return () => { watch.disconnect(); names.forEach(n => model.off("change:" + n, redraw)); root.remove(); };
}
const put = (model, values) => { for (const n in values) model.set(n, values[n]); model.save_changes(); };
const number = (x, digits = 2) => (Math.abs(x) < 0.5 / 10 ** digits ? 0 : x).toFixed(digits).replace("-", "\u2212");
// ---- end of the shared part

const dot = (a, b) => a.reduce((s, v, i) => s + v * b[i], 0), apply = (W, x, b) => W.map((row, i) => dot(row, x) + (b ? b[i] : 0));
function softmax(scores) {
  const top = Math.max(...scores), e = scores.map(z => Math.exp(z - top)), sum = e.reduce((a, b) => a + b, 0);
  return e.map(v => v / sum);
}
// What the modalities show of an item: a point near the place of its class, and how loud the background is; zeros where one is away.
export const observe = (where, target, draws, noise, present) => draws.map(([u, v, background], m) => present[m]
  ? [where[m][target][0] + noise[m] * u, where[m][target][1] + noise[m] * v, noise[m] * background] : [0, 0, 0]);
// Probabilities of a fusion and the weight of each modality, null where there is none; `there` is what it is told to be there.
export function fuse(kind, model, x, there) {
  const mixed = (weights, rows) => rows[0].map((_, k) => rows.reduce((s, row, m) => s + weights[m] * row[k], 0));
  let h = x.map((v, m) => apply(model.A[m], v, model.a[m]).map(z => Math.max(0, z))), scores;
  if (kind === "average") {
    const weights = there.map(t => t / there.filter(Boolean).length);
    return { p: mixed(weights, h.map((v, m) => softmax(apply(model.C[m], v, model.c[m])))), weights };
  }
  if (kind === "attention") scores = h.map(v => dot(apply(model.K, v), model.q) / Math.sqrt(model.q.length));
  else {
    h = h.map((v, m) => there[m] ? v : model.absent[m]);
    if (kind === "concatenation") return { p: softmax(apply(model.C, h.flat(), model.c)), weights: null };
    scores = apply(model.G, h.flat(), model.g);
  }
  const weights = softmax(scores.map((s, m) => there[m] ? s : -Infinity));
  return { p: softmax(apply(model.C, mixed(weights, h), model.c)), weights };
}
export const best = p => p.indexOf(Math.max(...p));

const KINDS = ["concatenation", "gated", "average", "attention"], MODALITIES = ["text", "picture", "sound"], SIDE = 170, REACH = 2.1;
const MORE = `
.mmt .three{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:10px 18px;margin-bottom:12px}.mmt .four{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:14px 18px}
.mmt .three label{display:flex}.mmt .three input[type=range]{width:auto;min-width:0;flex:1}.mmt .three output{min-width:2.3em}.mmt .who{font-weight:600}.mmt svg.field{height:auto;max-width:220px;margin:4px auto;overflow:hidden;border-radius:6px}.mmt .field text{paint-order:stroke;stroke:var(--fill);stroke-width:3px}
.mmt .away svg{opacity:.45}.mmt button[aria-pressed=true]{border-color:var(--warm);box-shadow:0 0 0 1px var(--warm)}
.mmt .bars{display:grid;grid-template-columns:auto 1fr 34px;gap:2px 6px;align-items:center;font-size:12px;font-variant-numeric:tabular-nums;margin:4px 0}.mmt .bars i{display:block;height:12px;border-radius:2px;background:var(--cool);width:calc(var(--w)*100%);min-width:1px}
.mmt .bars i.right{background:var(--warm)}.mmt .bars i.weight{background:var(--soft)}.mmt .bars b{font-weight:400}.mmt .bars b.right{font-weight:700}.mmt .bars s{text-decoration:none;text-align:right}.mmt .four p{margin:4px 0 8px}
.mmt .count{font-weight:600}@media(prefers-reduced-motion:no-preference){.mmt .bars i{transition:width .2s}}@media(max-width:560px){.mmt .three{grid-template-columns:1fr 1fr}.mmt .three label{flex-wrap:wrap}}`;

function render({ model, el }) {
  const get = n => model.get(n), NAMES = ["models", "where", "classes", "targets", "draws", "noise", "present", "missing", "item"], div = (more, ...kids) => make("div", more, ...kids);
  const first = Object.fromEntries(["noise", "present", "missing", "item"].map(n => [n, get(n)]));
  const swap = (name, m, value) => put(model, { [name]: get(name).map((v, i) => i === m ? value : v) });
  const sources = MODALITIES.map((name, m) => {
    const box = make("input", { type: "checkbox", onchange: () => swap("present", m, box.checked) });
    const heat = slider("noise", { min: 0, max: 2, step: 0.05, "aria-label": `noise of the ${name}` }, v => swap("noise", m, v)), svg = make("svg", { class: "field", role: "img", viewBox: `0 0 ${SIDE} ${SIDE}` });
    return { box, heat, svg, root: div({}, make("label", {}, box, make("span", { class: "who", text: name })), svg, heat.part) };
  });
  const ways = ["mask", "zeros"].map(missing => make("button", { type: "button", text: missing, onclick: () => put(model, { missing }) }));
  const items = slider("item", { min: 0, step: 1 }, item => put(model, { item }));
  const next = make("button", { type: "button", text: "next item", onclick: () => put(model, { item: (get("item") + 1) % get("targets").length }) });
  const reset = make("button", { type: "button", text: "reset", onclick: () => put(model, first) });
  const panels = KINDS.map(kind => ({ bars: div({ class: "bars", role: "img" }), weights: div({ class: "bars", role: "img" }), says: make("p"), none: make("p", { class: "soft", text: "no weights to look at" }), count: make("p", { class: "count" }) }));
  const says = make("p");
  let counted = [], counts = [];

  // The bars stay and change their width, so that they may glide.
  function bars(box, names, values, kind, mark) {
    while (box.childNodes.length > 3 * names.length) box.lastChild.remove();
    while (box.childNodes.length < 3 * names.length) box.append(make("b"), make("i"), make("s"));
    names.forEach((name, k) => {
      const [label, bar, value] = [0, 1, 2].map(i => box.childNodes[3 * k + i]);
      set(label, { text: name + (k === mark ? " ✓" : ""), class: k === mark ? "right" : "" }), set(value, { text: number(values[k]) });
      set(bar, { class: kind || (k === mark ? "right" : ""), style: `--w:${values[k].toFixed(4)}` });
    });
  }
  // The plane of a modality: the places of the classes, the point that it shows, and the way from its place to there.
  function plane(svg, m, target, point, title) {
    const at = ([u, v]) => [SIDE / 2 * (1 + Math.max(-1, Math.min(1, u / REACH))), SIDE / 2 * (1 - Math.max(-1, Math.min(1, v / REACH)))], marks = [], there = get("present")[m];
    marks.push(make("rect", { width: SIDE, height: SIDE, fill: "var(--fill)" }));
    const [x, y] = at(point), [cx, cy] = at(get("where")[m][target]), r = SIDE / 2 / REACH;
    marks.push(make("circle", { cx, cy, r: Math.min(SIDE, get("noise")[m] * r), fill: "var(--warm)", opacity: there ? 0.14 : 0 }));
    const dots = get("where")[m].map(place => at(place)), names = get("where")[m].map(([u, v], k) => {
      const side = Math.abs(v) < 0.3 ? Math.sign(u) : 0, [px, py] = at([u, v]); // beside the point, above it, or below
      return make("text", { x: px + 9 * side, y: py + (side ? 4 : v > 0 ? -10 : 19), "text-anchor": { "-1": "end", 0: "middle", 1: "start" }[side], class: k === target ? "" : "soft", "font-weight": k === target ? 700 : 400, text: get("classes")[k] });
    });
    marks.push(...names), dots.forEach(([px, py], k) => marks.push(make("circle", { cx: px, cy: py, r: k === target ? 5 : 3.5, fill: k === target ? "var(--warm)" : "var(--soft)" })));
    if (there) marks.push(make("line", { x1: cx, y1: cy, x2: x, y2: y, stroke: "var(--ink)", "stroke-dasharray": "3 3" }));
    if (there || get("missing") === "zeros") marks.push(make("circle", { class: "seen", cx: x, cy: y, r: 6, fill: "var(--cool)", stroke: "var(--ground)", "stroke-width": 2 }));
    set(svg, { "aria-label": title }), svg.replaceChildren(...marks);
  }

  return frame(model, el, "Fusion chooser", NAMES,
    [make("style", { text: MORE }), div({ class: "row" }, items.part, next, make("span", { role: "group", "aria-label": "a missing modality becomes" }, "missing becomes: ", ways[0], " ", ways[1]), reset),
      div({ class: "three" }, ...sources.map(s => s.root)),
      div({ class: "four" }, ...panels.map((p, k) => div({}, div({ class: "head", text: KINDS[k] }), p.bars, p.says, div({ class: "soft", text: k ? "weights" : "" }), k ? p.weights : p.none, p.count))), says], () => {
      const [models, where, classes, targets, draws, noise, present, missing] = NAMES.map(get), item = Math.min(get("item"), targets.length - 1), target = targets[item];
      const n = classes.length;
      if (draws.length !== targets.length || where[0].length !== n || models.gated.c.length !== n || Math.max(...targets) >= n) return make("p", { text: "…" });
      const there = present.map(p => p || missing === "zeros"), x = observe(where, target, draws[item], noise, present), title = m => present[m] ? `it shows ${x[m].slice(0, 2).map(v => number(v)).join(", ")}; background ${number(x[m][2])}`
        : missing === "zeros" ? "missing: zeros stand for it" : "missing: masked";
      set(items.bar, { max: targets.length - 1 }), items.show(item, `${item}: ${classes[target]}`);
      ways.forEach((b, k) => set(b, { "aria-pressed": String(missing === ["mask", "zeros"][k]) }));
      sources.forEach((s, m) => {
        s.box.checked = present[m], s.box.disabled = present[m] && present.filter(Boolean).length < 2, s.heat.bar.disabled = !present[m];
        s.heat.show(noise[m], number(noise[m])), s.root.classList.toggle("away", !present[m]);
        plane(s.svg, m, target, x[m], `${MODALITIES[m]}: ${title(m)}`);
      });
      const all = [models, where, targets, draws, JSON.stringify([noise, present, missing])];
      if (all.some((v, i) => v !== counted[i])) {
        const seen = targets.map((t, i) => observe(where, t, draws[i], noise, present));
        counts = KINDS.map(kind => targets.filter((t, i) => best(fuse(kind, models[kind], seen[i], there).p) === t).length), counted = all;
      }
      const found = KINDS.map(kind => fuse(kind, models[kind], x, there));
      found.forEach(({ p, weights }, k) => {
        const answer = best(p), panel = panels[k];
        bars(panel.bars, classes, p, "", target), set(panel.bars, { "aria-label": `${KINDS[k]}: ${classes.map((c, i) => `${c} ${number(p[i])}`).join(", ")}` });
        set(panel.says, { text: `${answer === target ? "Right" : "Wrong"}: ${classes[answer]}, ${number(p[answer])}` });
        if (weights) bars(panel.weights, MODALITIES, weights, "weight", -1), set(panel.weights, { "aria-label": `weights: ${MODALITIES.map((m, i) => `${m} ${number(weights[i])}`).join(", ")}` });
        set(panel.count, { text: `${counts[k]} of ${targets.length} items right` });
      });
      says.textContent = `Item ${item} is ${classes[target]}. ` + MODALITIES.map((m, i) => `${m[0].toUpperCase() + m.slice(1)}: ${title(i)}.`).join(" ")
        + (present.every(Boolean) ? "" : missing === "zeros" ? " The fusions are not told that anything is missing: they take the zeros for a point in the middle, with no background at all." : " What is masked gets no weight.");
      return table(`Item ${item}: ${classes[target]}`, ["fusion", "answer", "p of the right class", ...MODALITIES.map(m => `weight of ${m}`), `right of ${targets.length} items`],
        found.map(({ p, weights }, k) => [KINDS[k], classes[best(p)], number(p[target], 3), ...MODALITIES.map((_, m) => weights ? number(weights[m], 3) : "–"), counts[k]]));
    });
}

export default { render };
