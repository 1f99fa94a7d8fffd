// What the pages do beyond smalldocs' own script: no page has a script or a handler of its own.
(() => {
  const onClick = (selector, act) => document.querySelectorAll(selector).forEach(e => e.addEventListener("click", event => {
    event.preventDefault();
    act(e);
  }));
  onClick(".quarto-color-scheme-toggle", () => window.smalldocsToggleScheme());
  onClick("#quarto-back-to-top", () => scrollTo(0, 0));

  // Whoever scrolls with the keyboard can reach what scrolls sideways.
  const reach = () => document.querySelectorAll("main pre, main table, main .katex-display").forEach(e => {
    if (e.scrollWidth > e.clientWidth && !e.querySelector("a, button, input")) e.tabIndex = 0;
    else if (e.tabIndex === 0) e.removeAttribute("tabindex");
  });
  addEventListener("load", reach);
  addEventListener("resize", reach);

  // Search works from a folder too: there fetch may not read search.json, but a script may bring the same list.
  if (location.protocol === "file:") {
    const plain = window.fetch, offset = document.querySelector('meta[name="smalldocs:offset"]').content;
    window.fetch = (url, ...more) => !String(url).endsWith("search.json") ? plain(url, ...more) : new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = `${offset}search.js`;
      script.onload = () => done({ json: () => window.mmtutorSearch });
      script.onerror = failed;
      document.head.append(script);
    });
  }
})();
