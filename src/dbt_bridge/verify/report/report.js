
"use strict";
(() => {
  const form = document.querySelector(".filter");
  if (!form) return;
  const status = form.querySelector("select"), text = form.querySelector("input"), count = form.querySelector("output");
  const parts = [...document.querySelectorAll("[data-status]")];
  const show = () => {
    const wanted = status.value, words = text.value.trim().toLowerCase();
    let shown = 0;
    for (const part of parts) {
      const fits = (!wanted || part.dataset.status === wanted) && part.dataset.table.toLowerCase().includes(words);
      part.hidden = !fits;
      if (fits && part.tagName === "DETAILS") shown += 1;
    }
    count.textContent = `${shown} shown`;
  };
  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
  const open = () => {
    const part = location.hash && document.getElementById(location.hash.slice(1));
    if (part && part.tagName === "DETAILS") part.open = true;
  };
  addEventListener("hashchange", open);
  open();
  addEventListener("beforeprint", () => parts.forEach((part) => { if (part.tagName === "DETAILS") part.open = true; }));
})();
