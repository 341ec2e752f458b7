"use strict";
// Modules found by a part of their names; and on paper all sections are open and all colours light.
(() => {
  const find = document.getElementById("find");
  if (find) find.addEventListener("input", () => {
    const wanted = find.value.toLowerCase();
    const filter = (element) => {  // whether it or something in it has the text
      const line = element.querySelector(":scope > summary .line, :scope > .line");
      let matches = line.textContent.toLowerCase().includes(wanted), inside = false;
      for (const child of element.children) if (child.matches("details, .leaf")) inside = filter(child) || inside;
      element.hidden = !(matches || inside);
      if (wanted && inside) element.open = true;
      return matches || inside;
    };
    for (const element of document.getElementById("tree").children) filter(element);
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
