"use strict";
// Modules found by a part of their names; and on paper all sections are open and all colours light.
(() => {
  const find = document.getElementById("find");
  if (find) find.addEventListener("input", () => {
    // Layers that are alike stand as one, as in layers.0-31: any number finds them.
    const anyNumber = (name) => name.toLowerCase().replace(/\d+(-\d+)?(?=\.|$)/g, "#");
    const wanted = find.value.trim().toLowerCase(), wantedPath = wanted.includes(".") ? anyNumber(wanted) : null;
    const filter = (element, parent) => {  // whether it or something in it has the text, or is on the path that was typed
      const line = element.querySelector(":scope > summary .line, :scope > .line");
      const path = parent === null ? "" : (parent && parent + ".") + anyNumber(line.querySelector(".name").textContent);
      let matches = line.textContent.toLowerCase().includes(wanted) || (wantedPath !== null && path.includes(wantedPath));
      let inside = false;
      for (const child of element.children) if (child.matches("details, .leaf")) inside = filter(child, path) || inside;
      element.hidden = !(matches || inside);
      if (wanted && inside) element.open = true;
      return matches || inside;
    };
    let found = false;
    for (const element of document.getElementById("tree").children) found = filter(element, null) || found;
    document.getElementById("none-found").hidden = found;
  });
  const redraw = () => { if (window.inspectorPage) window.inspectorPage.redraw(); };
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details.section")) part.open = true;
    document.documentElement.classList.add("paper");
    redraw();
  });
  window.addEventListener("afterprint", () => {
    document.documentElement.classList.remove("paper");
    redraw();
  });
})();
