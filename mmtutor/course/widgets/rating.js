// Rating form: one item after another, one answer each; in the order that Python has drawn.
// One ES module in anywidget's form, with no dependency. What it computes is exported and held to Python by tests.

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

// The answer that a key stands for: "1" is the first; null for another key.
export const answer = (key, n) => /^[1-9]$/.test(key) && Number(key) <= n ? Number(key) - 1 : null;
// The next place in the order, behind `at` and around, whose item has no rating; `at` itself if there is none.
export function next(order, ratings, at) {
  for (let i = 1; i < order.length; i++) {
    const place = (at + i) % order.length;
    if (ratings[order[place]] < 0) return place;
  }
  return at;
}
// The ratings with a new one for an item.
export const rated = (ratings, item, value) => ratings.map((r, i) => i === item ? value : r);

const MORE = `
.mmt .shown{display:flex;flex-wrap:wrap;gap:16px;align-items:center}
.mmt .shown img{width:144px;height:144px;background:#fff;border-radius:8px;object-fit:contain}
.mmt .shown p{font-size:17px;font-weight:600;margin:0;flex:1 1 200px;overflow-wrap:anywhere}
.mmt fieldset{border:1px solid var(--line);border-radius:8px;margin:12px 0;padding:6px 12px 10px;min-width:0}
.mmt legend{font-weight:600;padding:0 6px;font-size:inherit;width:auto;margin:0;border:0;color:inherit}
.mmt fieldset label{display:flex;min-height:28px;cursor:pointer}.mmt fieldset input{width:18px;height:18px}`;
let forms = 0;

function render({ model, el }) {
  const get = n => model.get(n), here = () => get("order")[get("at")], name = `mmt-rating-${forms++}`;
  const large = make("img", {}), text = make("p", {}), told = make("span", { class: "soft" });
  const legend = make("legend", {}), field = make("fieldset", {}, legend);
  const choose = (value, on) => {
    const ratings = rated(get("ratings"), here(), value);
    put(model, { ratings, at: on ? next(get("order"), ratings, get("at")) : get("at") });
  };
  const go = step => () => put(model, { at: Math.max(0, Math.min(get("order").length - 1, get("at") + step)) });
  const back = make("button", { type: "button", text: "back", onclick: go(-1) });
  const onward = make("button", { type: "button", text: "next", onclick: go(1) });
  const skip = make("button", { type: "button", text: "next without a rating", onclick: () =>
    put(model, { at: next(get("order"), get("ratings"), get("at")) }) });
  let inputs = [], made = null;
  function fill() { // the answers, anew when the scale changes
    inputs = get("scale").map((_, i) => make("input", { type: "radio", name, value: i, onchange: () => choose(i, false) }));
    field.replaceChildren(legend, ...get("scale").map((word, i) => make("label", {}, inputs[i],
      make("span", { text: word }), make("span", { class: "soft", text: `(${i + 1})`, "aria-hidden": "true" }))));
  }
  const key = event => {
    const value = event.ctrlKey || event.metaKey || event.altKey ? null : answer(event.key, get("scale").length);
    if (value === null) return;
    event.preventDefault(), choose(value, true);
  };
  set(field, { onkeydown: key });
  return frame(model, el, "Rating form", ["items", "question", "scale", "rater", "order", "at", "ratings"],
    [make("style", { text: MORE }), make("div", { class: "shown", "aria-live": "polite" }, large, text), field,
      make("div", { class: "row", style: "margin:0" }, back, onward, skip, told)], () => {
      if (made !== get("scale")) made = get("scale"), fill();
      const item = get("items")[here()], ratings = get("ratings"), count = ratings.filter(r => r >= 0).length, n = ratings.length;
      set(large, { src: item.picture || false, alt: item.picture ? "the picture to be rated" : false, hidden: !item.picture });
      set(text, { text: item.name }), set(legend, { text: get("question") });
      inputs.forEach((input, i) => { input.checked = ratings[here()] === i; });
      back.disabled = get("at") === 0, onward.disabled = get("at") === n - 1, skip.disabled = count === n;
      set(told, { text: `item ${get("at") + 1} of ${n}, ${count} rated${get("rater") ? `, rater ${get("rater")}` : ""}` });
      return table(get("question"), ["item", "rating"], get("items").map((one, i) =>
        [one.name || `item ${i}`, ratings[i] < 0 ? "not rated" : get("scale")[ratings[i]]]));
    });
}

export default { render };
