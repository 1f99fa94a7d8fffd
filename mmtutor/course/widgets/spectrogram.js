// Spectrogram explorer: choose window, hop and bands; read time, frequency and level by pointer or arrow keys; play the sound.
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

// Samples from base64 of 16-bit integers.
export function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), c => c.charCodeAt(0)), view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 2 }, (_, i) => view.getInt16(2 * i, true) / 32768);
}
const circles = {};
// The discrete Fourier transform [real, imaginary] of real numbers; n is split into its primes (Cooley and Tukey 1965).
function fourier(samples) {
  const N = samples.length, real = new Float64Array(N), imag = new Float64Array(N), re = [], im = [];
  const [cos, sin] = circles[N] ??= [Math.cos, t => -Math.sin(t)].map(f => Float64Array.from({ length: N }, (_, i) => f(2 * Math.PI * i / N)));
  (function split(n, from, step, at) { // of every step-th sample from `from` on, into n places from `at` on
    if (n === 1) return real[at] = samples[from];
    let p = 2;
    while (n % p) p++;
    const m = n / p;
    for (let r = 0; r < p; r++) split(m, from + r * step, step * p, at + r * m);
    for (let k = 0; k < m; k++) {
      for (let r = 0; r < p; r++) re[r] = real[at + r * m + k], im[r] = imag[at + r * m + k];
      for (let q = 0; q < p; q++) {
        let a = re[0], b = im[0];
        for (let r = 1, turn = 0; r < p; r++) {
          if ((turn += (k + q * m) * step) >= N) turn -= N;
          a += re[r] * cos[turn] - im[r] * sin[turn], b += re[r] * sin[turn] + im[r] * cos[turn];
        }
        real[at + q * m + k] = a, imag[at + q * m + k] = b;
      }
    }
  })(N, 0, 1, 0);
  return [real, imag];
}
export const hann = n => Array.from({ length: n }, (_, i) => 0.5 - 0.5 * Math.cos(2 * Math.PI * i / n));
// Powers [frame][bin] as torch.stft gives them: frames centred, the sound mirrored at its ends.
export function powers(samples, window, hop) {
  const shape = hann(window), last = samples.length - 1, at = i => samples[i < 0 ? -i : i > last ? 2 * last - i : i];
  return Array.from({ length: 1 + Math.floor(samples.length / hop) }, (_, f) => {
    const [re, im] = fourier(shape.map((w, i) => w * at(f * hop + i - window / 2)));
    return Array.from({ length: window / 2 + 1 }, (_, k) => re[k] ** 2 + im[k] ** 2);
  });
}
// Slaney's mel scale: straight up to 1,000 Hz, then logarithmic.
export const toMel = hertz => hertz < 1000 ? hertz * 3 / 200 : 15 + 27 * Math.log(hertz / 1000) / Math.log(6.4);
export const toHertz = mel => mel < 15 ? mel * 200 / 3 : 1000 * 6.4 ** ((mel - 15) / 27);
// What a band takes from each bin: triangles of equal area.
export function filters(bands, window, rate) {
  const corner = i => toHertz(toMel(rate / 2) * i / (bands + 1));
  return Array.from({ length: bands }, (_, b) => {
    const [low, peak, high] = [corner(b), corner(b + 1), corner(b + 2)];
    return Array.from({ length: window / 2 + 1 }, (_, k) => {
      const f = k * rate / window;
      return Math.max(0, Math.min((f - low) / (peak - low), (high - f) / (high - peak))) * 2 / (high - low);
    });
  });
}
// Levels [frame][row] in decibels; a row is a mel band, or a bin where bands is 0.
export function levels(samples, rate, window, hop, bands) {
  const power = powers(samples, window, hop), decibel = p => 10 * Math.log10(Math.max(p, 1e-10));
  if (!bands) return power.map(frame => frame.map(decibel));
  const sparse = filters(bands, window, rate).map(f => f.flatMap((v, k) => v ? [[k, v]] : []));
  return power.map(frame => sparse.map(f => decibel(f.reduce((sum, [k, v]) => sum + v * frame[k], 0))));
}
// The frequency of a row, and the row nearest to a frequency.
export const centre = (row, rate, window, bands) => bands ? toHertz(toMel(rate / 2) * (row + 1) / (bands + 1)) : row * rate / window;
export function nearest(hertz, rate, window, bands) {
  const row = bands ? toMel(hertz) / toMel(rate / 2) * (bands + 1) - 1 : hertz * window / rate;
  return Math.max(0, Math.min((bands || window / 2 + 1) - 1, Math.round(row)));
}

// cividis of matplotlib, at nine places.
const CIVIDIS = [[0, 34, 78], [26, 56, 111], [67, 78, 108], [97, 101, 111], [125, 124, 120], [155, 148, 118], [188, 174, 108], [222, 201, 88], [254, 232, 56]];
function colour(v) {
  const x = Math.min(1, Math.max(0, v)) * 8, i = Math.min(7, Math.floor(x));
  return CIVIDIS[i].map((c, j) => c + (CIVIDIS[i + 1][j] - c) * (x - i));
}
const WINDOWS = [32, 64, 100, 128, 160, 200, 256, 320, 400, 512, 640, 800, 1024, 1600, 2048],
  HOPS = [64, 80, 160, 240, 320, 400, 640, 800, 1600];
const LEFT = 64, HIGH = 220, RANGE = 80;
const MORE = `
.mmt .plot{position:relative}.mmt .pane{position:absolute;left:${LEFT}px;right:0;top:6px;height:${HIGH}px;overflow:hidden;cursor:crosshair;touch-action:pan-y;background:rgb(0,34,78)}
.mmt .pane canvas{position:absolute;top:0;height:100%;image-rendering:pixelated}
.mmt .pane i{position:absolute;pointer-events:none}.mmt .x,.mmt .y{mix-blend-mode:difference}.mmt .pane .x{top:0;bottom:0;border-left:1px solid #fff}.mmt .pane .y{left:0;right:0;border-top:1px solid #fff}
.mmt .pane .dot{width:12px;height:12px;margin:-6px;border-radius:50%;border:2px solid #fff;box-shadow:0 0 0 2px #000}.mmt .pane .now{top:0;bottom:0;border-left:2px solid #fff;display:none}
.mmt .key{display:inline-block;width:120px;height:10px;margin:0 6px;background:linear-gradient(90deg,${CIVIDIS.map(c => `rgb(${c})`)})}`;

const write = (x, y, text, anchor = "end", more) => make("text", { x, y, text, "text-anchor": anchor, class: "soft", ...more });

function render({ model, el }) {
  const get = n => model.get(n), clip = (v, n) => Math.max(0, Math.min(n - 1, v)), many = x => x.toLocaleString("en");
  const near = (list, v) => list.reduce((best, x, i) => Math.abs(x - v) < Math.abs(list[best] - v) ? i : best, 0);
  const windows = slider("window", { min: 0, max: WINDOWS.length - 1, step: 1 }, i => put(model, { window: WINDOWS[i] }));
  const hops = slider("hop", { min: 0, max: HOPS.length - 1, step: 1 }, i => put(model, { hop: HOPS[i] }));
  const bands = slider("mel bands", { min: 4, max: 128, step: 4 }, v => put(model, { bands: v }));
  const mel = make("input", { type: "checkbox", onchange: () => put(model, { mel: mel.checked }) });
  const play = make("button", { type: "button", text: "play", onclick: () => source ? stop() : start() });
  const wave = make("svg", { role: "img" }), axes = make("svg", { "aria-hidden": "true" }), canvas = make("canvas");
  const [across, up, dot, now] = ["x", "y", "dot", "now"].map(c => make("i", { class: c }));
  const pane = make("div", { class: "pane", role: "slider", tabindex: "0", "aria-label": "cursor: left, right for time; up, down for frequency" },
    canvas, across, up, dot, now);
  const says = make("p", {}), reads = make("p", { class: "head" });
  let samples = [], packed = null, settings = "", grid = [], most = 0, empty = 0, context, source = null;

  const rate = () => get("rate"), width = () => get("mel") ? get("bands") : 0, rows = () => width() || get("window") / 2 + 1;
  const frameNow = () => clip(Math.round(get("time") * rate() / get("hop")), grid.length), row = () => nearest(get("hertz"), rate(), get("window"), width());
  const go = (f, r) => put(model, { time: Number((clip(f, grid.length) * get("hop") / rate()).toFixed(5)),
    hertz: Number(centre(clip(r, rows()), rate(), get("window"), width()).toFixed(2)) });
  const key = event => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1], PageUp: [0, 10], PageDown: [0, -10],
      Home: [-1e9, 0], End: [1e9, 0] }[event.key];
    if (step) { event.preventDefault(); go(frameNow() + step[0], row() + step[1]); }
  };
  const point = event => {
    const box = pane.getBoundingClientRect();
    go(Math.round((event.clientX - box.left) / box.width * samples.length / get("hop")), Math.floor((1 - (event.clientY - box.top) / box.height) * rows()));
  };
  set(pane, { onkeydown: key, onpointerdown: point, onpointermove: e => (e.pointerType === "mouse" || e.buttons) && point(e) });

  // Nothing is loaded: the buffer is made here.
  const ended = () => { source = null; play.textContent = "play"; now.style.display = "none"; };
  const stop = () => { const s = source; ended(); if (s) s.onended = null, s.stop(); };
  function start() {
    context ??= new AudioContext(), context.resume();
    const buffer = context.createBuffer(1, samples.length, rate());
    buffer.copyToChannel(Float32Array.from(samples), 0);
    source = Object.assign(context.createBufferSource(), { buffer, onended: ended });
    source.connect(context.destination), source.start();
    play.textContent = "stop";
    const began = context.currentTime, mine = source;
    const move = () => {
      if (source !== mine) return;
      now.style.cssText = `display:block;left:${100 * (context.currentTime - began) * rate() / samples.length}%`;
      requestAnimationFrame(move);
    };
    if (!matchMedia("(prefers-reduced-motion:reduce)").matches) move();
  }

  function compute() {
    if (get("packed") !== packed) stop(), packed = get("packed"), samples = unpack(packed), settings = "";
    const key = [rate(), get("window"), get("hop"), width()].join();
    if (key === settings) return;
    settings = key, grid = levels(samples, rate(), get("window"), get("hop"), width()), most = -Infinity;
    grid.forEach(f => f.forEach(v => { most = Math.max(most, v); }));
    empty = width() ? filters(width(), get("window"), rate()).filter(f => !f.some(v => v > 0)).length : 0;
    set(canvas, { width: grid.length, height: rows() });
    const brush = canvas.getContext("2d"), data = brush.createImageData(grid.length, rows());
    grid.forEach((f, x) => f.forEach((v, r) => data.data.set([...colour(1 + (v - most) / RANGE), 255], 4 * ((rows() - 1 - r) * grid.length + x))));
    brush.putImageData(data, 0, 0);
    const share = 100 * get("hop") / samples.length;
    canvas.style.cssText = `left:${-share / 2}%;width:${share * grid.length}%`;
  }
  const place = r => (r + 0.5) / rows(); // the height of a row, from 0 to 1
  function drawAxes() {
    const W = axes.clientWidth || 600, marks = [], seconds = samples.length / rate(), step = seconds > 0.8 ? 0.2 : seconds > 0.3 ? 0.1 : 0.05;
    const wanted = width() ? [250, 500, 1000, 2000, 4000, 8000] : [0, 1, 2, 3, 4].map(i => i * rate() / 8);
    wanted.filter(f => f <= rate() / 2).forEach(f => {
      const r = width() ? toMel(f) / toMel(rate() / 2) * (width() + 1) - 1 : f * get("window") / rate(), y = 6 + HIGH * (1 - place(Math.min(r, rows() - 1)));
      marks.push(write(LEFT - 8, Math.max(14, y + 4), many(f)), make("line", { x1: LEFT - 5, x2: LEFT, y1: y, y2: y, stroke: "var(--soft)" }));
    });
    for (let t = 0; t <= seconds + 1e-9; t += step) marks.push(write(LEFT + (W - LEFT) * t / seconds, HIGH + 22, number(t), t / seconds > 0.97 ? "end" : "middle"));
    marks.push(write((LEFT + W) / 2, HIGH + 38, "time (s)", "middle"), write(-HIGH / 2, 11, "frequency (Hz)", "middle", { transform: "rotate(-90)" }));
    set(axes, { viewBox: `0 0 ${W} ${HIGH + 42}`, height: HIGH + 42 }), axes.replaceChildren(...marks);
  }
  function drawWave(middle) {
    const W = wave.clientWidth || 600, H = 72, inner = W - LEFT, high = samples.reduce((m, s) => Math.max(m, Math.abs(s)), 1e-4), x = i => LEFT + inner * i / samples.length, y = s => H / 2 - s / high * (H / 2 - 4);
    let path = "";
    for (let c = 0; c < inner; c++) {
      const part = samples.slice(Math.floor(c * samples.length / inner), Math.floor((c + 1) * samples.length / inner) + 1);
      path += `M${LEFT + c + 0.5},${(y(Math.max(...part)) - 0.4).toFixed(1)}V${(y(Math.min(...part)) + 0.4).toFixed(1)}`;
    }
    const [from, to] = [middle - get("window") / 2, middle + get("window") / 2].map(i => x(Math.max(0, Math.min(samples.length, i))));
    set(wave, { viewBox: `0 0 ${W} ${H}`, height: H, "aria-label": `Waveform of ${number(samples.length / rate())} seconds, up to ${number(high)}` });
    wave.replaceChildren(make("rect", { class: "window", x: from, width: to - from, y: 0, height: H, fill: "var(--warm)", opacity: 0.35 }), make("path", { d: path, stroke: "var(--cool)", fill: "none" }),
      write(LEFT - 8, 14, number(high)), write(LEFT - 8, H - 4, number(-high)));
  }

  const end = frame(model, el, "Spectrogram explorer", ["packed", "rate", "window", "hop", "bands", "mel", "time", "hertz"],
    [make("style", { text: MORE }), make("div", { class: "row" }, windows.part, hops.part, bands.part, make("label", {}, mel, make("span", { text: "mel scale" })), play),
      make("div", { class: "head", text: "waveform, and the window that is looked at" }), wave,
      make("div", { class: "head", style: "margin-top:8px" }, "spectrogram: ", make("span", { class: "soft" }, `\u2212${RANGE} dB`, make("span", { class: "key" }), "0 dB, the loudest")),
      make("div", { class: "plot" }, axes, pane), reads, says], () => {
      compute();
      const f = frameNow(), r = row(), window = get("window"), hop = get("hop"), tell = n => `${number(1000 * n / rate(), 1)} ms`, loud = v => Math.max(-RANGE, v - most);
      windows.show(near(WINDOWS, window), `${window} = ${tell(window)}`), hops.show(near(HOPS, hop), `${hop} = ${tell(hop)}`);
      bands.show(get("bands"), String(get("bands"))), bands.bar.disabled = !get("mel"), mel.checked = get("mel");
      drawWave(f * hop), drawAxes();
      const left = `${100 * Math.min(1, f * hop / samples.length)}%`, top = `${100 * (1 - place(r))}%`;
      across.style.left = left, up.style.top = top, dot.style.cssText = `left:${left};top:${top}`;
      const hertz = i => centre(i, rate(), window, width()), level = number(loud(grid[f][r]), 1);
      const text = `${number(f * hop / rate(), 3)} s, ${many(Math.round(hertz(r)))} Hz: ${level} dB`;
      set(pane, { "aria-valuemin": 0, "aria-valuemax": grid.length - 1, "aria-valuenow": f, "aria-valuetext": text });
      reads.textContent = `At ${text}${width() ? ` (band ${r} of ${width()})` : ` (bin ${r})`}`;
      says.textContent = `In a window of ${tell(window)} the bins lie ${number(rate() / window, 1)} Hz apart. With a hop of ${tell(hop)}, ${many(samples.length)} samples become ${grid.length} frames of ${rows()} numbers: ${many(grid.length * rows())}.`
        + (hop > window ? ` ${Math.round(100 * (1 - window / hop))} % of the sound is not looked at.` : "")
        + (empty ? ` ${empty} of ${width()} bands get nothing: no bin lies in them.` : "");
      const picks = [...new Set(Array.from({ length: 20 }, (_, i) => Math.round(i * (grid.length - 1) / 19)))];
      return table("The loudest frequency of some frames", ["time (s)", "frequency (Hz)", "level (dB)"], picks.map(i => {
        const best = grid[i].indexOf(Math.max(...grid[i]));
        return [number(i * hop / rate(), 3), many(Math.round(hertz(best))), number(loud(grid[i][best]), 1)];
      }));
    });
  return () => { stop(); context?.close(); end(); };
}

export default { render };
