// What lies over a view is a place of its own: Back leads out of it, to the view as it was.

// Opens it; gives a function that goes on to another place, which takes this one's place in the history: a browser
// passes over what was put there by nobody.
export function over(dialog, first, closed = null) {
  const before = document.activeElement;
  const back = () => dialog.close();
  let leaving = false;
  history.pushState({ over: true }, "");
  addEventListener("popstate", back, { once: true });
  dialog.addEventListener("close", () => {
    removeEventListener("popstate", back);
    if (!leaving && history.state?.over) history.back();
    dialog.remove();
    if (closed) closed();
    else if (before?.isConnected) before.focus({ preventScroll: true });
  });
  document.body.append(dialog);
  dialog.showModal();
  first.focus();
  return (then) => {
    leaving = true;
    dialog.close();
    then();
    if (history.state?.over) history.back();
  };
}
