// Views by path, without loading the page again.

let show = () => {};
let shown = "";
const where = () => location.pathname + location.search;

export function here() {
  const path = location.pathname.replace(/\/+$/, "");
  const [, , view = "draw", id = null, part = null, ...rest] = path.split("/");
  const known = id === null ? view !== "vote" : view === "series" && (part === null || part === "vote") && !rest.length;
  return { view: known ? part || view : "lost", id };
}

export function go(path) {
  if (path !== where()) history[history.state?.over ? "replaceState" : "pushState"](null, "", path);
  shown = where();
  show(here());
}

// The same view, asked in another way: its address says so, and a refresh or Back finds it.
export function rename(search) {
  history.replaceState(history.state, "", location.pathname + (search === "?" ? "" : search));
  shown = where();
}

export function route(shows) {
  show = shows;
  // Back out of what lies over a view leaves the view as it is.
  addEventListener("popstate", () => {
    if (where() === shown) return;
    shown = where();
    show(here());
  });
  addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin || link.download || !/^\/imagine(\/|$)/.test(url.pathname)) return;
    if (url.hash) return;
    event.preventDefault();
    go(url.pathname + url.search);
  });
  shown = where();
  show(here());
}
