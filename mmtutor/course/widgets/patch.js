// Patch explorer: a picture as a row of tokens, and what one place of a convolutional network sees of it.
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

// The patch sizes that divide a picture into at most 256 tokens.
export const sizes = (height, width) => [...Array(Math.min(height, width) + 1).keys()]
  .filter(p => p > 1 && height % p === 0 && width % p === 0 && height / p * width / p <= 256);
// Where a token stands in the grid, and its first pixel; and the token that holds a pixel.
export function cell(token, patch, width) {
  const columns = width / patch, row = Math.floor(token / columns), column = token % columns;
  return { row, column, top: row * patch, left: column * patch };
}
export const tokenAt = (y, x, patch, width) => Math.floor(y / patch) * (width / patch) + Math.floor(x / patch);
// What a place of a layer sees along an axis (0 down, 1 across): the first pixel, how many, and the way to the next place.
// Going up, a kernel adds (kernel − 1) steps of what lies below; a stride makes the steps longer. Araujo et al. 2019.
export function field(layers, layer, place, axis) {
  let start = 0, size = 1, jump = 1;
  for (const l of layers.slice(0, layer + 1)) start -= l.pad[axis] * jump, size += (l.kernel - 1) * jump, jump *= l.stride;
  return { start: start + place * jump, size, jump };
}
// The place whose field has its middle nearest to a pixel.
export function placeAt(layers, layer, pixel, axis) {
  const { start, size, jump } = field(layers, layer, 0, axis);
  return Math.max(0, Math.min(layers[layer].size[axis] - 1, Math.round((pixel - start - (size - 1) / 2) / jump)));
}

const MORE = `
.mmt .two{display:grid;grid-template-columns:repeat(auto-fit,minmax(250px,1fr));gap:14px 26px;align-items:start}
.mmt button[aria-pressed=true]{border-color:var(--warm);box-shadow:0 0 0 1px var(--warm)}
.mmt .stage{position:relative;max-width:340px;overflow:hidden;cursor:crosshair;touch-action:pan-y}.mmt .stage.wide{padding:13%;background:var(--fill)}
.mmt .photo{position:relative;background-size:100% 100%;image-rendering:pixelated}.mmt .photo svg{position:absolute;inset:0;height:100%}
.mmt .photo path{vector-effect:non-scaling-stroke;fill:none}
.mmt .tokens{display:flex;flex-wrap:wrap;gap:5px 4px;max-height:330px;overflow-y:auto;padding:3px}.mmt .token{width:36px;text-align:center;font-size:11px;font-variant-numeric:tabular-nums;cursor:pointer;color:var(--soft)}
.mmt .token b,.mmt .big{display:block;aspect-ratio:1;image-rendering:pixelated;background-repeat:no-repeat}.mmt .token[aria-selected=true]{color:var(--ink);font-weight:700;outline:3px solid var(--warm)}
.mmt .token:focus-visible{outline:3px solid var(--ink)}.mmt .big{width:96px;flex:none}.mmt .near{display:flex;gap:14px;align-items:start;margin-top:10px}.mmt .near p{margin:0}
.mmt .map{width:100%;max-width:240px;background:var(--fill);border:1px solid var(--line)}.mmt [hidden]{display:none!important}`;

function render({ model, el }) {
  const get = n => model.get(n), many = x => x.toLocaleString("en"), clip = (v, n) => Math.max(0, Math.min(n - 1, v));
  const H = () => get("height"), W = () => get("width"), layers = () => get("layers"), choices = () => sizes(H(), W());
  const count = () => H() / get("patch") * W() / get("patch"), looks = () => get("mode") === "field" && layers().length > 0;
  const modes = [["patches", "patches"], ["field", "receptive field"]].map(([mode, text]) =>
    make("button", { type: "button", text, onclick: () => put(model, { mode }) }));
  // Another size or layer: what was chosen stays where it is in the picture, as nearly as may be.
  const size = slider("patch", { min: 0, step: 1 }, i => {
    const { top, left } = cell(get("token"), get("patch"), W()), patch = choices()[i];
    put(model, { patch, token: tokenAt(top, left, patch, W()) });
  });
  const depth = slider("layer", { min: 0, step: 1 }, layer => {
    const [row, column] = ["row", "column"].map((n, axis) => {
      const now = field(layers(), get("layer"), get(n), axis);
      return placeAt(layers(), layer, now.start + (now.size - 1) / 2, axis);
    });
    put(model, { layer, row, column });
  });
  const lines = make("path", { stroke: "#fff", "stroke-width": 1, style: "mix-blend-mode:difference", opacity: 0.8 }), veil = make("path", { "fill-rule": "evenodd", style: "fill:var(--ground)", opacity: 0.72 });
  const edge = make("path", { class: "edge", stroke: "var(--warm)", "stroke-width": 3 }), dot = make("circle", { fill: "var(--warm)", stroke: "#fff", "stroke-width": 0.4 });
  const svg = make("svg", { preserveAspectRatio: "none" }, veil, lines, edge, dot), photo = make("div", { class: "photo" }, svg), stage = make("div", { class: "stage" }, photo);
  const list = make("div", { class: "tokens", role: "listbox", "aria-label": "tokens, in reading order", "aria-orientation": "horizontal" });
  const big = make("div", { class: "big", "aria-hidden": "true" }), says = make("p", {}), map = make("svg", { class: "map", "aria-hidden": "true" });
  const head = make("div", { class: "head" }), note = make("p", { class: "soft" });
  let items = [], built = "";

  const choose = (token, focus) => {
    if (token !== get("token")) put(model, { token });
    if (focus) items[token].focus();
  };
  const go = (row, column) => {
    const [h, w] = layers()[get("layer")].size, to = { row: clip(row, h), column: clip(column, w) };
    if (to.row !== get("row") || to.column !== get("column")) put(model, to);
  };
  const arrows = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  const key = event => {
    const step = arrows[event.key] ?? { Home: [-1e6, -1e6], End: [1e6, 1e6] }[event.key];
    if (!step) return;
    event.preventDefault();
    if (looks()) return go(get("row") + step[0], get("column") + step[1]);
    choose(clip(get("token") + step[0] * W() / get("patch") + step[1], count()), true);
  };
  const point = event => {
    const box = photo.getBoundingClientRect(), y = (event.clientY - box.top) / box.height * H(), x = (event.clientX - box.left) / box.width * W();
    if (looks()) return go(...[y, x].map((v, axis) => placeAt(layers(), get("layer"), v - 0.5, axis)));
    choose(tokenAt(clip(Math.floor(y), H()), clip(Math.floor(x), W()), get("patch"), W()));
  };
  const track = { onpointerdown: point, onpointermove: e => (e.pointerType === "mouse" || e.buttons) && point(e) };
  set(stage, { ...track, onkeydown: e => looks() && key(e) });
  set(map, { onpointerdown: e => {
    const box = map.getBoundingClientRect(), [h, w] = layers()[get("layer")].size;
    go(Math.floor((e.clientY - box.top) / box.height * h), Math.floor((e.clientX - box.left) / box.width * w));
  }, style: "cursor:crosshair" });

  // One patch of the picture, as the background of an element of any size.
  function crop(element, { top, left }) {
    const p = get("patch"), share = (at, all) => all > p ? 100 * at / (all - p) : 0;
    element.style.background = `url(${get("image")}) ${share(left, W())}% ${share(top, H())}%/${100 * W() / p}% ${100 * H() / p}%`;
  }
  function build() {
    items = Array.from({ length: count() }, (_, i) => {
      const at = cell(i, get("patch"), W()), tile = make("b", {});
      crop(tile, at);
      return make("div", { class: "token", role: "option", "aria-label": `token ${i}: row ${at.row}, column ${at.column}`,
        onpointerenter: () => choose(i), onclick: () => choose(i, true), onfocus: () => choose(i), onkeydown: key }, tile, make("span", { text: i }));
    });
    list.replaceChildren(...items);
  }
  const box = (top, left, high, wide) => `M${left},${top}h${wide}v${high}h${-wide}z`;
  const mesh = (h, w, y, x) => Array.from({ length: h - 1 }, (_, i) => `M0,${(i + 1) * y}H${w * x}`).join("") + Array.from({ length: w - 1 }, (_, i) => `M${(i + 1) * x},0V${h * y}`).join("");

  function drawPatches() {
    const p = get("patch"), n = count(), token = clip(get("token"), n), at = cell(token, p, W()), across = W() / p;
    size.show(choices().indexOf(p), `${p} \u00d7 ${p}`);
    const wanted = [get("image"), p, H(), W()].join();
    if (wanted !== built) build(), built = wanted;
    items.forEach((e, i) => set(e, { "aria-selected": String(i === token), tabindex: i === token ? "0" : "-1" }));
    crop(big, at), set(veil, { d: "" }), set(lines, { d: mesh(H() / p, across, p, p) }), set(edge, { d: box(at.top, at.left, p, p) });
    head.textContent = `${n} tokens, in reading order`;
    says.textContent = `Token ${token}: row ${at.row}, column ${at.column}, for ${at.row} \u00d7 ${across} + ${at.column} = ${token}. Its pixels: ${at.top} to ${at.top + p - 1} down, ${at.left} to ${at.left + p - 1} across.`;
    note.textContent = `All counts begin with 0. A token holds ${p} \u00d7 ${p} \u00d7 3 = ${many(3 * p * p)} numbers; attention compares ${n} \u00d7 ${n} = ${many(n * n)} pairs of tokens.`;
    return table("Patch sizes", ["patch", "grid", "tokens", "numbers in a token", "pairs of tokens"], choices().map(c => {
      const k = H() / c * W() / c;
      return [`${c} \u00d7 ${c}`, `${H() / c} \u00d7 ${W() / c}`, k, many(3 * c * c), many(k * k)];
    }));
  }
  function drawField() {
    const layer = clip(get("layer"), layers().length), l = layers()[layer], [h, w] = l.size, row = clip(get("row"), h), column = clip(get("column"), w);
    const [y, x] = [field(layers(), layer, row, 0), field(layers(), layer, column, 1)], inside = (f, all) => Math.max(0, Math.min(all, f.start + f.size) - Math.max(0, f.start));
    depth.show(layer, l.name);
    const share = inside(y, H()) * inside(x, W()) / (y.size * x.size), square = box(y.start, x.start, y.size, x.size);
    set(veil, { d: box(-H(), -W(), 3 * H(), 3 * W()) + square }), set(edge, { d: square }), set(lines, { d: "" });
    set(dot, { cx: x.start + x.size / 2, cy: y.start + y.size / 2, r: Math.max(H(), W()) / 90 });
    set(map, { viewBox: `0 0 ${w} ${h}` });
    map.replaceChildren(make("rect", { x: column, y: row, width: 1, height: 1, fill: "var(--warm)" }), make("path", { d: mesh(h, w, 1, 1), stroke: "var(--soft)", "stroke-width": Math.max(h, w) / 400 }));
    head.textContent = `the ${h} \u00d7 ${w} places of ${l.name}`;
    says.textContent = `Row ${row}, column ${column} sees ${y.size} \u00d7 ${x.size} pixels: ${y.start} to ${y.start + y.size - 1} down, ${x.start} to ${x.start + x.size - 1} across.`.replace(/-/g, "\u2212")
      + (share < 1 ? ` ${Math.round(100 * (1 - share))} % of the square is padding, outside the picture.` : "");
    note.textContent = `All counts begin with 0. One place further is ${y.jump} pixels further; a kernel of ${l.kernel} reaches over ${l.kernel - 1} steps of the layer below. Two neighbours share ${Math.max(0, y.size - y.jump)} of ${y.size} rows.`;
    set(stage, { "aria-valuemin": 0, "aria-valuemax": h * w - 1, "aria-valuenow": row * w + column, "aria-valuetext": `row ${row}, column ${column}: sees ${y.size} by ${x.size} pixels` });
    return table("The layers", ["layer", "kernel", "stride", "places", "pixels from one to the next", "sees"], layers().map((one, i) => {
      const f = field(layers(), i, 0, 0);
      return [one.name, one.kernel, one.stride, one.size.join(" \u00d7 "), f.jump, `${f.size} \u00d7 ${f.size}`];
    }));
  }

  return frame(model, el, "Patch explorer", ["image", "height", "width", "patch", "token", "mode", "layers", "layer", "row", "column"],
    [make("style", { text: MORE }), make("div", { class: "row" }, ...modes, size.part, depth.part),
      make("div", { class: "two" }, make("div", {}, stage, make("div", { class: "near" }, big, says)), make("div", {}, head, list, map, note))], () => {
      const deep = looks();
      modes.forEach((b, i) => { set(b, { "aria-pressed": String(deep === (i === 1)) }), b.hidden = !layers().length; });
      set(size.bar, { max: choices().length - 1 }), set(depth.bar, { max: Math.max(0, layers().length - 1) });
      size.part.hidden = list.hidden = big.hidden = deep, depth.part.hidden = !deep;
      map.style.display = dot.style.display = deep ? "" : "none";
      stage.classList.toggle("wide", deep);
      photo.style.cssText = `background-image:url(${get("image")});aspect-ratio:${W()}/${H()}`;
      set(svg, { viewBox: `0 0 ${W()} ${H()}` });
      set(stage, deep ? { role: "slider", tabindex: "0", "aria-label": "place in the layer: arrow keys, down and across" }
        : { role: "img", tabindex: null, "aria-label": `The picture, cut into patches of ${get("patch")} by ${get("patch")} pixels`, "aria-valuemin": null, "aria-valuemax": null, "aria-valuenow": null, "aria-valuetext": null });
      return deep ? drawField() : drawPatches();
    });
}

export default { render };
