// Block explorer: step through the tensors of one forward pass, with their shapes and a few of their values.
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

// Mean and standard deviation (over n, not n − 1) of rows of numbers.
export function moments(rows) {
  const all = rows.flat(), mean = all.reduce((a, b) => a + b, 0) / all.length;
  return { mean, std: Math.sqrt(all.reduce((s, v) => s + (v - mean) ** 2, 0) / all.length) };
}
// How strong a colour each number gets: its size against the largest, from −1 to 1.
export function tint(rows) {
  const most = Math.max(...rows.flat().map(Math.abs)) || 1;
  return rows.map(r => r.map(v => v / most));
}

const MORE = `
.mmt .two{display:grid;grid-template-columns:minmax(200px,5fr) 7fr;gap:14px 24px}@container (max-width:560px){.mmt .two{grid-template-columns:1fr}}
.mmt{container-type:inline-size}.mmt .steps{position:relative;padding-left:26px;display:flex;flex-direction:column;gap:5px}
.mmt .steps svg{position:absolute;left:0;top:0;width:26px;height:100%;pointer-events:none}
.mmt .step{border:1px solid var(--line);border-left:4px solid var(--line);border-radius:6px;padding:3px 8px;cursor:pointer;background:var(--fill);display:flex;flex-wrap:wrap;justify-content:space-between;align-items:baseline;gap:0 10px}
.mmt .step[aria-selected=true]{border-color:var(--warm);background:var(--ground);font-weight:600}.mmt .step small{color:var(--soft);font-weight:400;font-variant-numeric:tabular-nums}
.mmt .step.done{border-left-color:var(--cool)}.mmt .name{font-size:16px;font-weight:600}.mmt svg rect{stroke:var(--ground);stroke-width:1}
@media (prefers-reduced-motion:no-preference){.mmt svg rect{transition:fill .25s}}@media (prefers-reduced-motion:reduce){.mmt .play{display:none}}`;

function render({ model, el }) {
  const get = n => model.get(n), steps = () => get("steps"), clip = v => Math.min(steps().length - 1, Math.max(0, v));
  const go = (step, focus) => { put(model, { step: clip(step) }); if (focus) items[get("step")].focus(); };
  const bar = slider("step", { min: 0, max: 1, step: 1 }, step => go(step));
  const back = make("button", { type: "button", text: "\u25c0 back", onclick: () => go(get("step") - 1) });
  const next = make("button", { type: "button", text: "next \u25b6", onclick: () => go(get("step") + 1) });
  const play = make("button", { type: "button", class: "play", text: "play", onclick: () => timer ? stop() : start() });
  const list = make("div", { class: "steps", role: "listbox", "aria-label": "steps of the forward pass" });
  const wires = make("svg", { "aria-hidden": "true" });
  const name = make("div", { class: "name" }), shape = make("div", {}), note = make("p", {}), size = make("p", { class: "soft" });
  const picture = make("svg", { role: "img" });
  let items = [], built = null, timer = 0;

  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "play"; };
  const start = () => {
    if (get("step") >= steps().length - 1) go(0);
    timer = setInterval(() => { go(get("step") + 1); if (get("step") >= steps().length - 1) stop(); }, 1400);
    play.textContent = "stop";
  };
  const key = (i, event) => {
    const to = { ArrowDown: i + 1, ArrowRight: i + 1, ArrowUp: i - 1, ArrowLeft: i - 1, Home: 0, End: steps().length - 1 }[event.key];
    if (to !== undefined) { event.preventDefault(); go(to, true); }
  };
  function build() {
    items = steps().map((s, i) => make("div", { class: "step", role: "option", onclick: () => go(i, true), onkeydown: e => key(i, e) },
      make("span", { text: s.name }), make("small", { text: s.shape.join(" \u00d7 ") })));
    list.replaceChildren(wires, ...items);
  }
  // The ways round: a line in the margin from the step that is added again to the step that adds it.
  function drawWires(now) {
    const H = list.offsetHeight, marks = [];
    steps().forEach((s, i) => s.adds.forEach(from => {
      const [a, b] = [items[from].offsetTop + items[from].offsetHeight / 2, items[i].offsetTop + items[i].offsetHeight / 2];
      const c = i === now ? "var(--warm)" : i < now ? "var(--cool)" : "var(--soft)";
      marks.push(make("path", { d: `M26,${a}H12Q6,${a} 6,${a + 6}V${b - 6}Q6,${b} 12,${b}H22`, fill: "none", stroke: c, "stroke-width": 2 }),
        make("path", { d: `M26,${b}l-7,-4v8z`, fill: c }), make("text", { x: 11, y: b - 5, "font-weight": 700, text: "+" }));
    }));
    set(wires, { viewBox: `0 0 26 ${H}`, height: H }), wires.replaceChildren(...marks);
  }
  function drawValues(s) {
    const rows = s.values, [axisY, axisX] = s.axes.slice(-2), W = picture.clientWidth || 380, left = 22, top = 20;
    const cell = Math.min(46, (W - left) / rows[0].length), high = Math.min(cell, 30), strong = tint(rows), marks = [];
    rows.forEach((r, i) => {
      marks.push(make("text", { x: left - 6, y: top + high * (i + 0.5) + 4, "text-anchor": "end", class: "soft", text: i }));
      r.forEach((v, j) => {
        const x = left + cell * j, y = top + high * i, pole = v < 0 ? "var(--warm)" : "var(--cool)";
        marks.push(make("rect", { x, y, width: cell, height: high, rx: 2, style: `fill:color-mix(in srgb,${pole} ${(Math.abs(strong[i][j]) * 60).toFixed(0)}%,var(--fill))` }));
        if (cell > 33) marks.push(make("text", { x: x + cell / 2, y: y + high / 2 + 4, "text-anchor": "middle", style: "font-size:11px", text: number(v, cell > 38 ? 2 : 1) }));
      });
    });
    rows[0].forEach((v, j) => marks.push(make("text", { x: left + cell * (j + 0.5), y: 13, "text-anchor": "middle", class: "soft", text: j })));
    const H = top + high * rows.length + 2;
    set(picture, { viewBox: `0 0 ${W} ${H}`, height: H, "aria-label": `Values of ${s.name}: ${rows.length} ${axisY} by ${rows[0].length} ${axisX}, from ${number(Math.min(...rows.flat()))} to ${number(Math.max(...rows.flat()))}` });
    picture.replaceChildren(...marks);
  }

  const end = frame(model, el, "Transformer block, step by step", ["steps", "step"],
    [make("style", { text: MORE }), make("div", { class: "row" }, back, next, play, bar.part),
      make("div", { class: "two" }, list, make("div", {}, name, shape, note, make("div", { style: "margin-top:10px" }, picture), size))], () => {
      if (built !== steps()) build(), built = steps();
      const now = clip(get("step")), s = steps()[now], last = steps().length - 1, m = moments(s.values);
      set(bar.bar, { max: last }), bar.show(now, `${now + 1} of ${steps().length}`);
      back.disabled = now === 0, next.disabled = now === last;
      items.forEach((e, i) => { set(e, { "aria-selected": String(i === now), tabindex: i === now ? "0" : "-1" }); e.classList.toggle("done", i < now); });
      name.textContent = s.name, shape.textContent = s.axes.map((a, i) => `${s.shape[i]} ${a}`).join(" \u00d7 ");
      note.textContent = s.note;
      drawValues(s), drawWires(now);
      const [r, c] = [s.values.length, s.values[0].length], [axisY, axisX] = s.axes.slice(-2), part = r < s.shape.at(-2) || c < s.shape.at(-1) || s.shape.length > 2;
      size.textContent = `${axisY} \u2193 ${axisX} \u2192${part ? `, the first ${r} \u00d7 ${c}` : ""}. All values: mean ${number(s.mean)}, standard deviation ${number(s.std)}`
        + `; those shown: ${number(m.mean)} and ${number(m.std)}.`;
      return table(`Values of ${s.name}`, [`${axisY} \\ ${axisX}`, ...s.values[0].map((v, j) => j)], s.values.map((row, i) => [i, ...row.map(v => number(v))]));
    });
  return () => { stop(); end(); };
}

export default { render };
