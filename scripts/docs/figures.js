// Brings the interactive figures of a page to life: each runs its module in a sandboxed frame that can load nothing.
// Without scripts, or if anything fails, the picture and the table stay where they are.
(() => {
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  const theme = () => document.documentElement.classList.contains("quarto-dark") ? "dark" : "light";
  // A module comes as a script that holds its text: that works over a network and from a folder.
  const loading = {}, modules = window.mmtutorModules = {};
  const source = name => loading[name] ??= new Promise((done, failed) => {
    if (!/^[a-z_]+$/.test(name)) throw new Error(`no figure ${name}`);
    const script = document.createElement("script");
    script.src = `${here}${name}.text.js`;
    script.onload = () => done(modules[name]);
    script.onerror = () => failed(new Error(`no figure ${name}`));
    document.head.append(script);
  });

  async function start(figure) {
    const still = document.createElement("div"), frame = document.createElement("iframe");
    const code = await source(figure.dataset.figure), values = JSON.parse(figure.dataset.values);
    frame.sandbox = "allow-scripts";
    frame.title = figure.dataset.title;
    frame.style.cssText = `display:block;width:100%;border:0;height:0;color-scheme:${theme()}`;
    frame.src = `${here}frame.html`;
    addEventListener("message", event => {
      if (event.source !== frame.contentWindow) return;
      const said = event.data, send = message => frame.contentWindow.postMessage(message, "*");
      if (said.waiting) send({ code, values, title: figure.dataset.title, theme: theme() });
      if (said.height) frame.style.height = `${said.height}px`;
      if (said.ready) { still.style.display = "none"; figure.dataset.state = "live"; }
      if (said.values) figure.dataset.values = JSON.stringify(said.values);
      if (said.failed) { frame.remove(); figure.dataset.state = said.failed; }
    });
    new MutationObserver(() => {
      frame.style.colorScheme = theme();
      frame.contentWindow?.postMessage({ theme: theme() }, "*");
    }).observe(document.documentElement, { attributeFilter: ["class"] });
    still.append(...figure.childNodes);
    figure.append(frame, still);
  }

  const near = new IntersectionObserver(seen => seen.filter(s => s.isIntersecting).forEach(s => {
    near.unobserve(s.target);
    start(s.target).catch(error => { s.target.dataset.state = String(error); });
  }), { rootMargin: "800px" });
  document.querySelectorAll(".mmtutor-figure").forEach(figure => near.observe(figure));
})();
