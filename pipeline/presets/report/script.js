"use strict";
(() => {
  const PER_PAGE = 8;
  const form = document.querySelector(".controls");
  if (form) {
    const queries = [...document.querySelectorAll(".query")];
    const headings = [...document.querySelectorAll(".queries h3")];
    const { list, domain, before, after } = form.elements;
    const counter = form.querySelector("output");
    let page = 0;
    const show = () => {
      const chosen = queries.filter((query) =>
        (!list.value || query.dataset.list === list.value) && (!domain || !domain.value || query.dataset.domain === domain.value));
      const pages = Math.max(1, Math.ceil(chosen.length / PER_PAGE));
      page = Math.min(Math.max(page, 0), pages - 1);
      const shown = new Set(chosen.slice(page * PER_PAGE, (page + 1) * PER_PAGE));
      for (const query of queries) query.hidden = !shown.has(query);
      for (const heading of headings) heading.hidden = ![...shown].some((query) => query.dataset.list === heading.dataset.list);
      counter.textContent = chosen.length ? `page ${page + 1} of ${pages}, ${chosen.length} queries` : "no query";
      before.disabled = page === 0;
      after.disabled = page === pages - 1;
    };
    const turn = (by) => {
      page += by;
      show();
      form.scrollIntoView({ block: "start" });
    };
    before.addEventListener("click", () => turn(-1));
    after.addEventListener("click", () => turn(1));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => { page = 0; show(); });
    form.hidden = false;
    show();
  }

  const source = document.getElementById("map-facts");
  if (source) {
    const facts = JSON.parse(source.textContent);
    const description = document.querySelector(".described");
    const marked = () => document.querySelectorAll(".maps .on");
    const describe = (event) => {
      const at = event.target.closest?.("[data-at]")?.dataset.at;
      if (at === undefined) return;
      for (const other of marked()) other.classList.remove("on");
      for (const same of document.querySelectorAll(`.maps [data-at="${at}"]`)) same.classList.add("on");
      const [label, domain, key] = facts[at];
      description.textContent = `${label}${domain ? ` (${domain})` : ""}: ${key}`;
    };
    description.hidden = false;
    description.textContent = "Point at a dot or a picture to see what it is.";
    for (const map of document.querySelectorAll(".maps")) {
      map.addEventListener("pointerover", describe);
      map.addEventListener("click", describe);
    }
  }
})();
