// Views by path, without loading the page again.

let show = () => {};

export function here() {
  const path = location.pathname.replace(/\/+$/, "");
  const [, , view = "draw", id = null, part = null] = path.split("/");
  return { view: part || view, id };
}

export function go(path) {
  if (path !== location.pathname + location.search) history.pushState(null, "", path);
  show(here());
}

export function route(shown) {
  show = shown;
  addEventListener("popstate", () => show(here()));
  addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin || link.download || !/^\/imagine(\/|$)/.test(url.pathname)) return;
    if (url.hash) return;
    event.preventDefault();
    go(url.pathname + url.search);
  });
  show(here());
}
