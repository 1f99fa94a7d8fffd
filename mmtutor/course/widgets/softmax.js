// Softmax explorer: drag the logits, turn the temperature, mask tokens; see weights, entropy and slopes.
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

// Weights of softmax(logits / temperature) over the tokens that the mask allows; zeros where it allows none.
export function softmax(logits, temperature = 1, mask = logits.map(() => true)) {
  const top = Math.max(...logits.filter((_, i) => mask[i]));
  const e = logits.map((z, i) => mask[i] ? Math.exp((z - top) / temperature) : 0);
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map(v => sum ? v / sum : 0);
}
// In nats; 0 · log 0 is 0.
export const entropy = weights => weights.reduce((s, w) => w > 0 ? s - w * Math.log(w) : s, 0);
// d weight[i] / d logit[j] for every j.
export const slopes = (weights, i, temperature = 1) =>
  weights.map((w, j) => weights[i] * ((i === j ? 1 : 0) - w) / temperature);

const HEIGHT = 168, TOP = 18, FOOT = 22;

function render({ model, el }) {
  const get = n => model.get(n), first = { logits: get("logits"), temperature: get("temperature"), mask: get("mask") };
  const heat = slider("temperature", { min: -1, max: 1, step: 0.02 },
    v => put(model, { temperature: Number((10 ** v).toPrecision(3)) }));
  const masks = make("div", { class: "row", role: "group", "aria-label": "mask: tokens that may be attended to" });
  const reset = make("button", { type: "button", text: "reset", onclick: () => put(model, first) });
  const panels = [0, 1, 2].map(() => ({ head: make("div", { class: "head" }), svg: make("svg", {}) }));
  const grid = make("div", { style: "display:grid;grid-template-columns:repeat(auto-fit,minmax(205px,1fr));gap:14px 22px" },
    ...panels.map(p => make("div", {}, p.head, p.svg)));
  const says = make("p", {});
  let handles = [], boxes = [];

  const limit = () => Math.max(4, ...[...first.logits, ...get("logits")].map(z => Math.ceil(Math.abs(z))));
  const move = (i, value) => {
    const logits = [...get("logits")], most = limit();
    logits[i] = Number(Math.min(most, Math.max(-most, value)).toFixed(2));
    put(model, { logits, selected: i });
  };
  const key = (i, event) => {
    const now = get("logits")[i], step = { ArrowUp: 0.1, ArrowRight: 0.1, ArrowDown: -0.1, ArrowLeft: -0.1, PageUp: 1, PageDown: -1 }[event.key];
    const to = step ? now + step : { Home: -limit(), End: limit() }[event.key];
    if (to !== undefined) { event.preventDefault(); move(i, to); }
  };
  const drag = (i, event) => {
    if (event.type === "pointerdown") { event.currentTarget.setPointerCapture(event.pointerId); put(model, { selected: i }); return; }
    if (!event.currentTarget.hasPointerCapture(event.pointerId)) return;
    const box = panels[0].svg.getBoundingClientRect(), inner = HEIGHT - TOP - FOOT;
    move(i, limit() * (1 - 2 * (event.clientY - box.top - TOP) / inner));
  };

  // One handle and one box per token: made anew only when the tokens change, so that the focus stays where it is.
  function tokens(labels) {
    handles = labels.map((label, i) => make("circle", { r: 9, tabindex: "0", role: "slider", "aria-orientation": "vertical",
      style: "cursor:ns-resize;touch-action:none", onkeydown: e => key(i, e), onpointerdown: e => drag(i, e), onpointermove: e => drag(i, e),
      onfocus: () => get("selected") !== i && put(model, { selected: i }) }));
    boxes = labels.map((label, i) => make("input", { type: "checkbox",
      onchange: () => put(model, { mask: get("mask").map((m, j) => j === i ? boxes[i].checked : m) }) }));
    masks.replaceChildren(make("span", { text: "may be attended to:" }),
      ...labels.map((label, i) => make("label", {}, boxes[i], make("span", { text: label }))));
  }

  function panel({ head, svg }, title, values, most, least, chosen, dots) {
    set(head, { text: title });
    const width = svg.clientWidth || 220, n = values.length, column = width / n, inner = HEIGHT - TOP - FOOT;
    const y = v => TOP + inner * (most - v) / (most - least), marks = [];
    for (const v of least ? [most, least] : [most, most / 2]) {
      marks.push(make("line", { x1: 0, x2: width, y1: y(v), y2: y(v), stroke: "var(--line)", "stroke-dasharray": "2 4" }),
        make("text", { x: width, y: y(v) - 3, "text-anchor": "end", class: "soft", text: number(v, 2).replace(/\.?0+$/, "") }));
    }
    values.forEach((v, i) => {
      const x = column * (i + 0.5), off = !get("mask")[i], w = Math.min(34, column * 0.62), up = v >= 0;
      const fill = off ? "var(--line)" : i === chosen ? "var(--warm)" : "var(--cool)";
      const bar = { x: x - (dots ? 1.5 : w / 2), width: dots ? 3 : w, y: Math.min(y(v), y(0)), height: Math.abs(y(v) - y(0)) };
      marks.push(make("rect", { ...bar, rx: dots ? 0 : 2, fill, class: "bar" }));
      const gap = dots ? 14 : 5, ly = up ? y(v) - gap : y(v) + gap + 9;
      marks.push(make("text", { x, y: Math.max(11, Math.min(ly, HEIGHT - FOOT + 8)), "text-anchor": "middle", text: number(v, dots ? 1 : 2) }));
      const room = Math.max(2, Math.floor(column / 6.6)), label = get("labels")[i];
      marks.push(make("text", { x, y: HEIGHT - 4, "text-anchor": "middle", class: i === chosen ? "" : "soft",
        "font-weight": i === chosen ? 700 : 400, text: label.length > room ? label.slice(0, room - 1) + "…" : label }));
      if (dots) {
        set(handles[i], { cx: x, cy: y(v), fill: off ? "var(--ground)" : fill, stroke: off ? "var(--soft)" : "var(--ground)", "stroke-width": 2,
          "aria-label": "logit of " + label, "aria-valuemin": -most, "aria-valuemax": most, "aria-valuenow": v,
          "aria-valuetext": number(v) + (off ? ", masked" : "") });
      }
    });
    marks.unshift(make("line", { x1: 0, x2: width, y1: y(0), y2: y(0), stroke: "var(--soft)" }));
    set(svg, { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, ...(dots ? { role: "group" } : { role: "img" }), "aria-label":
      title + ": " + values.map((v, i) => `${get("labels")[i]} ${number(v)}`).join(", ") });
    const old = [...svg.childNodes].filter(c => !handles.includes(c));
    old.forEach(c => c.remove());
    svg.prepend(...marks);
    if (dots && handles[0].parentNode !== svg) svg.append(...handles);
  }

  return frame(model, el, "Softmax explorer", ["logits", "labels", "temperature", "mask", "selected"],
    [make("div", { class: "row" }, heat.part, reset), masks, grid, says], () => {
      const logits = get("logits"), labels = get("labels"), mask = get("mask"), T = get("temperature");
      const i = Math.min(get("selected"), logits.length - 1), w = softmax(logits, T, mask), d = slopes(w, i, T);
      if (boxes.length !== labels.length || labels.some((t, j) => t !== boxes[j].parentNode.textContent)) {
        handles.forEach(h => h.remove()), tokens(labels);
      }
      boxes.forEach((b, j) => { b.checked = mask[j]; });
      heat.show(Math.log10(T), T.toPrecision(2));
      panel(panels[0], "logits (drag them)", logits, limit(), -limit(), i, true);
      panel(panels[1], "weights", w, 1, 0, i);
      const most = 0.25 * Math.max(1, 1 / T);
      panel(panels[2], `slope of the weight of “${labels[i]}”`, d, most, -most, i);
      const n = mask.filter(Boolean).length, H = entropy(w);
      says.textContent = n ? `Entropy ${number(H)} of at most ${number(Math.log(n))} nats: as spread as ${number(Math.exp(H), 1)} equal choices. `
        + `Raise the logit of “${labels[i]}” by a little, and its weight grows ${number(d[i], 3)} times as much.`
        : "Nothing may be attended to: every weight is zero.";
      return table(`Temperature ${T.toPrecision(2)}`, ["token", "may attend", "logit", "weight", `slope of “${labels[i]}”`],
        labels.map((t, j) => [t, mask[j] ? "yes" : "no", number(logits[j]), number(w[j], 3), number(d[j], 3)]));
    });
}

export default { render };
