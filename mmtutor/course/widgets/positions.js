// Position explorer: what sinusoidal encodings have in common, and how rotary encodings turn with the place.
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

// One angular speed for each pair of numbers of an encoding `width` wide, in radians a step.
export const speeds = (width, base = 1e4) => [...Array(width / 2).keys()].map(i => base ** (-2 * i / width));
// The sinusoidal encoding of a place: sine and cosine of every pair, side by side.
export const sinusoid = (place, width) => speeds(width).flatMap(s => [Math.sin(place * s), Math.cos(place * s)]);
// The dot product of two encodings `offset` apart, wherever they stand, over its largest value.
export const similarity = (offset, width) => speeds(width).reduce((sum, s) => sum + Math.cos(offset * s), 0) / (width / 2);
// A pair of numbers turned by an angle.
export const turn = ([a, b], angle) => [a * Math.cos(angle) - b * Math.sin(angle), a * Math.sin(angle) + b * Math.cos(angle)];

// cividis of matplotlib, at nine places.
const CIVIDIS = [[0, 34, 78], [26, 56, 111], [67, 78, 108], [97, 101, 111], [125, 124, 120], [155, 148, 118], [188, 174, 108], [222, 201, 88], [254, 232, 56]];
function colour(v) {
  const x = Math.min(1, Math.max(0, v)) * 8, i = Math.min(7, Math.floor(x));
  return CIVIDIS[i].map((c, j) => c + (CIVIDIS[i + 1][j] - c) * (x - i));
}
const MORE = `
.mmt .two{display:grid;grid-template-columns:repeat(auto-fit,minmax(250px,1fr));gap:14px 28px}
.mmt .map{position:relative;width:100%;max-width:260px;aspect-ratio:1;cursor:crosshair}.mmt .map canvas{width:100%;height:100%;display:block;image-rendering:pixelated;border-radius:3px}
.mmt .map i{position:absolute;border:2px solid var(--warm);border-radius:50%;width:14px;height:14px;margin:-7px;pointer-events:none;background:#fff8}
.mmt .turns{display:flex;flex-wrap:wrap;gap:4px 10px}.mmt .turns>div{width:96px;font-size:12px;text-align:center}
.mmt .q{color:var(--cool);font-weight:600}.mmt .k{color:light-dark(#a84300,#e69f00);font-weight:600}`;

function render({ model, el }) {
  const get = n => model.get(n), last = () => get("length") - 1, clip = (v, a, b) => Math.min(b, Math.max(a, v));
  const bars = { width: slider("width", { min: 4, max: 128, step: 2 }, width => put(model, { width })),
    position: slider("position", { min: 0, max: 1, step: 1 }, position => put(model, { position })),
    offset: slider("offset", { min: -1, max: 1, step: 1 }, offset => put(model, { offset })) };
  const canvas = make("canvas", { role: "img" }), mark = make("i"), map = make("div", { class: "map" }, canvas, mark);
  const curve = make("svg", { role: "img" }), turns = make("div", { class: "turns" }), says = make("p", {});
  const place = event => {
    const box = map.getBoundingClientRect(), n = get("length");
    const [column, line] = [[event.clientX, box.left, box.width], [event.clientY, box.top, box.height]]
      .map(([at, start, size]) => clip(Math.floor((at - start) / size * n), 0, n - 1));
    put(model, { position: line, offset: column - line });
  };
  set(map, { onpointerdown: place, onpointermove: e => e.buttons && place(e), style: "touch-action:pan-y" });
  let drawn = "";

  function drawMap(n, width) {
    const like = [...Array(n).keys()].map(k => similarity(k, width)), least = Math.min(...like);
    set(canvas, { width: n, height: n, "aria-label":
      `Dot products of ${n} encodings of width ${width}: 1 on the diagonal, ${number(like[1])} one step away, at least ${number(least)}` });
    const context = canvas.getContext("2d"), data = context.createImageData(n, n);
    for (let p = 0; p < n * n; p++) {
      const v = like[Math.abs(Math.floor(p / n) - p % n)];
      data.data.set([...colour((v - least) / (1 - least || 1)), 255], 4 * p);
    }
    context.putImageData(data, 0, 0);
  }
  function drawCurve(n, width, offset) {
    const W = curve.clientWidth || 260, H = 190, x = k => 34 + (W - 44) * k / Math.max(1, n - 1), y = v => 10 + (H - 44) * (1 - v) / 1.5;
    const ends = [...Array(8 * (n - 1) + 1).keys()].map(i => i / 8), at = Math.abs(offset), v = similarity(at, width);
    const marks = [-0.5, 0, 0.5, 1].flatMap(t => [make("line", { x1: 34, x2: W - 10, y1: y(t), y2: y(t), stroke: t ? "var(--line)" : "var(--soft)", "stroke-dasharray": t ? "2 4" : null }),
      make("text", { x: 28, y: y(t) + 4, "text-anchor": "end", class: "soft", text: number(t, 1) })]);
    const right = x(at) > W * 0.6;
    marks.push(make("path", { d: "M" + ends.map(k => `${x(k).toFixed(1)},${y(similarity(k, width)).toFixed(1)}`).join("L"), fill: "none", stroke: "var(--cool)", "stroke-width": 2 }),
      make("line", { x1: x(at), x2: x(at), y1: y(-0.5), y2: y(v), stroke: "var(--warm)", "stroke-width": 1.5 }),
      make("circle", { cx: x(at), cy: y(v), r: 6, fill: "var(--warm)", stroke: "var(--ground)", "stroke-width": 2 }),
      make("text", { x: x(at) + (right ? -10 : 10), y: Math.max(y(v) - 8, 12), "font-weight": 700, "text-anchor": right ? "end" : "start", text: number(v) }),
      ...[0, Math.round((n - 1) / 2), n - 1].map(k => make("text", { x: x(k), y: H - 18, "text-anchor": "middle", class: "soft", text: k })),
      make("text", { x: (W + 24) / 2, y: H - 2, "text-anchor": "middle", class: "soft", text: "distance (positions)" }));
    set(curve, { viewBox: `0 0 ${W} ${H}`, height: H, "aria-label": `Dot product against distance, for width ${width}; ${number(v)} at distance ${at}` });
    curve.replaceChildren(...marks);
  }
  // An arrow from the middle of a dial; angles grow anticlockwise, as in mathematics.
  function arrow(angle, size, colour) {
    const tip = (r, a) => `${(48 + r * Math.cos(a)).toFixed(2)},${(48 - r * Math.sin(a)).toFixed(2)}`;
    return make("g", {}, make("path", { d: `M48,48L${tip(size - 6, angle)}`, stroke: colour, "stroke-width": 3 }),
      make("path", { d: `M${tip(size, angle)}L${tip(size - 10, angle - 0.22)}L${tip(size - 10, angle + 0.22)}Z`, fill: colour }));
  }
  function drawTurns(pairs, speed, position, offset) {
    turns.replaceChildren(...pairs.map(i => {
      const [a, b] = [position * speed[i], (position + offset) * speed[i]], between = offset * speed[i];
      const dial = make("svg", { viewBox: "0 0 96 96", role: "img", "aria-label": `pair ${i}: query at ${number(a)}, key at ${number(b)}, between them ${number(between)} radians` },
        make("circle", { cx: 48, cy: 48, r: 42, fill: "var(--fill)", stroke: "var(--line)" }), arrow(a, 40, "var(--cool)"), arrow(b, 32, "var(--warm)"));
      return make("div", {}, dial, make("b", { text: `pair ${i}` }), make("div", { class: "soft", text: `${number(between, Math.abs(between) < 0.1 ? 4 : 2)} rad` }));
    }));
  }

  return frame(model, el, "Position explorer", ["width", "length", "position", "offset"],
    [make("style", { text: MORE }), make("div", { class: "row" }, ...Object.values(bars).map(b => b.part)),
      make("div", { class: "two" }, make("div", {}, make("div", { class: "head", text: "dot products of sinusoidal encodings" }), map, make("div", { class: "soft", text: "query position \u2193 key position \u2192" })),
        make("div", {}, make("div", { class: "head", text: "they depend on the distance alone" }), curve)),
      make("p", { class: "head", style: "margin:12px 0 6px" }, "rotary: the ", make("span", { class: "q", text: "query" }), " and the ", make("span", { class: "k", text: "key" }), " turn with their position; the angle between them:"),
      turns, says], () => {
      const n = get("length"), width = get("width"), position = clip(get("position"), 0, n - 1), offset = clip(get("offset"), -last(), last());
      set(bars.position.bar, { max: n - 1 }), set(bars.offset.bar, { min: 1 - n, max: n - 1 });
      bars.width.show(width, String(width)), bars.position.show(position, String(position)), bars.offset.show(offset, number(offset, 0));
      if (drawn !== n + "," + width) drawMap(n, width), drawn = n + "," + width;
      const key = position + offset, inside = key >= 0 && key < n;
      mark.style.cssText = inside ? `left:${100 * (key + 0.5) / n}%;top:${100 * (position + 0.5) / n}%` : "display:none";
      drawCurve(n, width, offset);
      const speed = speeds(width), many = Math.min(6, speed.length);
      const pairs = [...Array(many).keys()].map(i => Math.round(i * (speed.length - 1) / (many - 1)));
      drawTurns(pairs, speed, position, offset);
      says.textContent = `Query at ${position}, key at ${number(key, 0)}: the dot product is ${number(similarity(offset, width))} of its largest value. `
        + "Move the position: all arrows turn, and the angles between them stay. Move the offset: the angles change, the first pairs fast, the last ones slowly.";
      return table(`Query at ${position}, key at ${number(key, 0)}, width ${width}`, ["pair", "radians a step", "query at", "key at", "between", "cosine"],
        speed.map((s, i) => [i, s.toPrecision(3), number(position * s), number(key * s), number(offset * s), number(Math.cos(offset * s))]));
    });
}

export default { render };
