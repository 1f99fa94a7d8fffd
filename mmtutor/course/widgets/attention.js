// Attention explorer: hover or focus a query (a word, a patch, a stretch of sound) and see what it looks at.
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

// Weights come flat, as whole ten-thousandths, in the order of shape = [layers, heads, queries, keys].
// The weights of one query; head −1 is the mean of the heads.
export function row(weights, [, heads, queries, keys], layer, head, query) {
  const from = head < 0 ? [...Array(heads).keys()] : [head], sum = Array(keys).fill(0);
  for (const h of from) {
    const start = ((layer * heads + h) * queries + query) * keys;
    for (let k = 0; k < keys; k++) sum[k] += weights[start + k] / 1e4 / from.length;
  }
  return sum;
}
// In nats, of the weights as they are; 0 · log 0 is 0.
export const entropy = weights => weights.reduce((s, w) => w > 0 ? s - w * Math.log(w) : s, 0);
// The places of the n largest weights, the largest first; of equal ones the first.
export const strongest = (weights, n) => weights.map((w, i) => i).sort((a, b) => weights[b] - weights[a] || a - b).slice(0, n);

// cividis of matplotlib, at nine places.
const CIVIDIS = [[0, 34, 78], [26, 56, 111], [67, 78, 108], [97, 101, 111], [125, 124, 120], [155, 148, 118], [188, 174, 108], [222, 201, 88], [254, 232, 56]];
function colour(v) {
  const x = Math.min(1, Math.max(0, v)) * 8, i = Math.min(7, Math.floor(x));
  return CIVIDIS[i].map((c, j) => c + (CIVIDIS[i + 1][j] - c) * (x - i));
}
function paint(canvas, rows) {
  const most = Math.max(1e-9, ...rows.flat()), width = rows[0].length;
  set(canvas, { width, height: rows.length });
  const context = canvas.getContext("2d"), data = context.createImageData(width, rows.length);
  rows.flat().forEach((w, i) => data.data.set([...colour(w / most), 255], 4 * i));
  context.putImageData(data, 0, 0);
  return most;
}

const MORE = `
.mmt .parts{display:grid;grid-template-columns:repeat(auto-fit,minmax(215px,1fr));gap:14px 24px}.mmt .part{margin:0 0 8px}
.mmt .words{display:flex;flex-wrap:wrap;gap:4px}
.mmt .word{border:1px solid var(--line);border-radius:6px;padding:2px 8px;min-height:26px;text-align:center;
background:color-mix(in srgb,var(--cool) calc(var(--w,0)*42%),var(--ground))}
.mmt .word small{display:block;font-size:11px;font-variant-numeric:tabular-nums}
.mmt .tiles{display:grid;position:relative;width:100%;background-size:100% 100%;border-radius:4px}.mmt .patches{max-width:230px;aspect-ratio:var(--aspect)}
.mmt .frames{height:64px}.mmt .tile{position:relative}
.mmt .seen .tile::before{content:"";position:absolute;inset:0;background:color-mix(in srgb,var(--ground) calc((1 - var(--w,0))*86%),transparent)}
.mmt .seen .bare .tile::before{inset:auto 1px 0;height:calc(var(--w,0)*100%);background:var(--cool)}
.mmt .bare{border-bottom:1px solid var(--soft);background:var(--fill)}.mmt .asks .tile{box-shadow:inset 0 0 0 .5px var(--line)}
.mmt .asks [role=option]{cursor:pointer}.mmt .asks [aria-selected=true],.mmt .seen .best{outline:3px solid var(--warm);outline-offset:-1px;z-index:1}
.mmt .asks .word[aria-selected=true]{font-weight:700}.mmt .asks :focus-visible{outline:3px solid var(--ink);outline-offset:1px;z-index:2}
.mmt canvas{image-rendering:pixelated;display:block;border-radius:3px}.mmt .head-choice{padding:3px 5px;font-size:12px;line-height:1.2}
.mmt .head-choice canvas{width:42px;height:42px;margin:0 auto 2px}.mmt .head-choice[aria-pressed=true]{border-color:var(--warm);box-shadow:0 0 0 2px var(--warm)}
.mmt .map{position:relative;cursor:crosshair}.mmt .map canvas{width:100%;height:100%}
.mmt .map i{position:absolute;left:-2px;right:-2px;border:2px solid var(--warm);border-radius:2px;pointer-events:none}`;

function render({ model, el }) {
  const get = n => model.get(n), shape = () => get("shape"), clip = (v, n) => Math.min(n - 1, Math.max(0, v));
  const layers = slider("layer", { min: 0, max: 1, step: 1 }, layer => put(model, { layer }));
  const heads = make("div", { class: "row", role: "group", "aria-label": "head", style: "gap:6px" });
  const asks = make("div", { role: "listbox", "aria-label": "queries", class: "asks" });
  const seen = make("div", { class: "seen" });
  const canvas = make("canvas", { role: "img" }), mark = make("i");
  const map = make("div", { class: "map" }, canvas, mark);
  const seenHead = make("div", { class: "head" }), mapHead = make("div", { class: "head" }), says = make("p", {});
  const parts = make("div", { class: "parts" },
    make("div", {}, make("div", { class: "head", text: "query (hover or arrow keys)" }), asks),
    make("div", {}, seenHead, seen), make("div", {}, mapHead, map));
  let items = [], targets = [], built = "", drawn = [];

  const choose = (q, focus) => {
    if (q !== get("query")) put(model, { query: q });
    if (focus) items[q].focus();
  };
  const key = (i, part, event) => {
    const across = part.columns ?? 1, last = items.length - 1;
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, ArrowDown: i + across, ArrowUp: i - across, Home: 0, End: last }[event.key];
    if (to !== undefined) { event.preventDefault(); choose(Math.min(last, Math.max(0, to)), true); }
  };
  // The parts of an axis: words, the patches of a picture, the frames of a sound; and all their places in one list.
  function axis(parts, item) {
    const all = [], boxes = parts.map(part => {
      const cells = part.labels.map(label => {
        const e = item(all.length, label, part);
        if (part.kind === "tokens") { e.className = "word"; e.append(label, make("small", {})); } else e.className = "tile";
        return all.push(e), e;
      });
      if (part.kind === "tokens") return make("div", { class: "part words", role: "presentation" }, ...cells);
      const across = part.columns ?? cells.length;
      const look = `grid-template-columns:repeat(${across},1fr);--aspect:${part.aspect ?? 1};` + (part.image ? `background-image:url(${part.image})` : "");
      const tiles = make("div", { class: `tiles ${part.kind}${part.image ? "" : " bare"}`, style: look, role: "presentation" }, ...cells);
      return make("div", { class: "part", role: "presentation" }, tiles, ...(part.kind === "frames" ? [make("div", { class: "soft row",
        "aria-hidden": "true", style: "justify-content:space-between;font-size:12px;margin:0" }, make("span", { text: part.labels[0] }), make("span", { text: part.labels.at(-1) }))] : []));
    });
    return [all, boxes];
  }
  function build() {
    let boxes;
    [items, boxes] = axis(get("query_axis"), (i, label, part) => make("div", { role: "option", tabindex: "-1", "aria-label": label,
      onpointerenter: () => choose(i), onclick: () => choose(i, true), onfocus: () => choose(i), onkeydown: e => key(i, part, e) }));
    asks.replaceChildren(...boxes);
    [targets, boxes] = axis(get("key_axis"), (i, label) => make("div", { role: "listitem" }));
    seen.replaceChildren(make("div", { role: "list", "aria-label": "keys, with the weight of each" }, ...boxes));
  }
  function thumbnails(layer) {
    const [, H, Q] = shape();
    const choices = H > 1 ? [...Array(H).keys(), -1] : [];
    while (heads.childNodes.length > choices.length) heads.lastChild.remove();
    choices.forEach((head, i) => {
      const button = heads.childNodes[i] ?? heads.appendChild(make("button", { type: "button", class: "head-choice",
        onclick: () => put(model, { head }) }, make("canvas", { "aria-hidden": "true" }), make("span", { text: head < 0 ? "mean" : "head " + head })));
      paint(button.firstChild, [...Array(Q).keys()].map(q => row(get("packed"), shape(), layer, head, q)));
    });
  }
  const point = event => {
    const box = map.getBoundingClientRect();
    choose(clip(Math.floor((event.clientY - box.top) / box.height * shape()[2]), shape()[2]));
  };
  set(map, { onpointerdown: point, onpointermove: e => (e.pointerType === "mouse" || e.buttons) && point(e) });

  return frame(model, el, "Attention explorer", ["packed", "shape", "query_axis", "key_axis", "layer", "head", "query"],
    [make("style", { text: MORE }), make("div", { class: "row" }, layers.part), heads, parts, says], () => {
      const [L, H, Q, K] = shape(), layer = clip(get("layer"), L), head = Math.min(get("head"), H - 1), q = clip(get("query"), Q);
      const labels = get("key_axis").flatMap(p => p.labels), asked = get("query_axis").flatMap(p => p.labels);
      if (labels.length !== K || asked.length !== Q) return make("p", { text: "…" });
      const axes = JSON.stringify([get("query_axis"), get("key_axis")]);
      if (axes !== built) build(), built = axes;
      set(layers.bar, { max: L - 1 }), layers.show(layer, String(layer)), layers.part.parentNode.hidden = L < 2;
      layers.part.parentNode.style.display = L < 2 ? "none" : "";
      heads.style.display = H < 2 ? "none" : "";
      const what = [get("packed"), layer, head, Q, K];
      if (what.some((v, i) => v !== drawn[i])) {
        thumbnails(layer), drawn = what;
        paint(canvas, [...Array(Q).keys()].map(i => row(get("packed"), shape(), layer, head, i)));
      }
      heads.childNodes.forEach((b, i) => set(b, { "aria-pressed": String((i < H ? i : -1) === head) }));
      items.forEach((e, i) => set(e, { "aria-selected": String(i === q), tabindex: i === q ? "0" : "-1" }));
      const w = row(get("packed"), shape(), layer, head, q), most = Math.max(...w, 1e-9), best = strongest(w, Math.min(K, 5));
      targets.forEach((e, i) => {
        e.style.setProperty("--w", (w[i] / most).toFixed(3)), e.classList.toggle("best", i === best[0] && w[i] > 0);
        set(e, { "aria-label": `${labels[i]}: ${number(w[i])}`, title: `${labels[i]}: ${number(w[i], 3)}` });
        if (e.className.startsWith("word")) e.lastChild.textContent = number(w[i]);
      });
      seenHead.textContent = `“${asked[q]}” looks at`;
      mapHead.textContent = "queries ↓ keys →";
      map.style.cssText = `max-width:230px;aspect-ratio:${Math.min(3, Math.max(0.6, K / Q))}`;
      mark.style.cssText = `top:${100 * q / Q}%;height:${100 / Q}%`;
      set(canvas, { "aria-label": `All weights, ${Q} queries by ${K} keys` });
      const spread = entropy(w), left = w.reduce((a, b) => a + b, 0);
      says.textContent = left < 0.001 ? `“${asked[q]}” may look at nothing: every weight is zero.`
        : `“${asked[q]}” looks at ${best.filter(i => w[i] > 0).map(i => `“${labels[i]}” ${number(w[i])}`).join(", ")}. `
        + `Entropy ${number(spread)} of at most ${number(Math.log(K))} nats.`;
      return table(`What “${asked[q]}” looks at`, ["key", "weight"], labels.map((t, i) => [t, number(w[i], 3)]));
    });
}

export default { render };
