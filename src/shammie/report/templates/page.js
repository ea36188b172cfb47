"use strict";
// Comforts only: the page is whole without this. Tooltips that also answer to a tap, copy buttons, the current chapter.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);
  // Native titles wait a second and never show on touch; take them over the first time they are met.
  const words = new WeakMap();
  const find = (start) => {
    for (let node = start; node && node !== document.body; node = node.parentElement) {
      if (words.has(node)) return node;
      const child = node.namespaceURI.endsWith("svg") ? node.querySelector(":scope > title") : null;
      const text = child ? child.textContent : node.getAttribute("title");
      if (!text) continue;
      words.set(node, text);
      if (child) { node.setAttribute("aria-label", text); child.remove(); } else { node.removeAttribute("title"); node.setAttribute("aria-description", text); }
      return node;
    }
    return null;
  };
  const show = (event) => {
    const node = event.target instanceof Element ? find(event.target) : null;
    tip.hidden = !node;
    if (!node) return;
    tip.textContent = words.get(node);
    const box = (node.querySelector(".target") || node).getBoundingClientRect();
    const middle = Math.max(box.left, 0) / 2 + Math.min(box.right, innerWidth) / 2;
    const left = Math.min(Math.max(8, middle - tip.offsetWidth / 2), document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("click", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  for (const box of document.querySelectorAll(".command")) {
    const code = box.querySelector("code");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    const select = () => { getSelection().selectAllChildren(code); button.textContent = "Selected"; };
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; } catch { select(); }
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
    box.append(button);
  }

  const links = new Map([...document.querySelectorAll(".side a")].map((a) => [a.hash.slice(1), a]));
  if (links.size && "IntersectionObserver" in window) {
    const seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        for (const [name, link] of links) {
          if (name === target.id) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
        }
      }
    }, { rootMargin: "-20% 0px -75% 0px" });
    for (const section of document.querySelectorAll("main > section")) seen.observe(section);
  }
})();
