// Keys and shortcuts. Every page works without this file. live.js keeps pages up to date.

"use strict";

const root = document.body.dataset.root;
const typing = (element) => element.closest("input, textarea, select, [contenteditable]");
let previous = "";                     // the key before this one

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  if (document.querySelector("dialog[open]")) return;
  const key = event.key;
  const go = previous === "g" && document.querySelector(`[data-go="${CSS.escape(key)}"]`);
  previous = key;
  if (go) go.click();
  else if (key === "/") document.querySelector("[data-filter]")?.focus();
  else if (key === "?") document.getElementById("keys")?.showModal();
  else if (key === "j") move(1);
  else if (key === "k") move(-1);
  else if (key === "x") document.activeElement.closest("tr")?.querySelector("input")?.click();
  else return;
  event.preventDefault();
});

// The first link of the next row, so that Enter opens it.
function move(step) {
  const rows = [...document.querySelectorAll("main tbody tr")].filter((row) => row.querySelector("a"));
  const at = rows.indexOf(document.activeElement.closest("tr"));
  const row = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step];
  row?.querySelector("th a, a")?.focus();
}

// The box in a table's head selects the whole page. It is hidden without a script.
document.addEventListener("change", (event) => {
  const all = event.target.closest("[data-all]");
  if (!all) return;
  for (const box of all.closest("table").querySelectorAll("tbody input[type=checkbox]")) {
    box.checked = all.checked;
  }
});
for (const box of document.querySelectorAll("[data-all]")) box.hidden = false;

// Copy buttons.
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  button.textContent = "Copied";
});
for (const button of document.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;

// Preview a form while somebody types: load the part named by `data-preview` again, with the values
// of its `data-fields`. Mark the fields that have faults.
for (const form of document.querySelectorAll("form:has([data-preview])")) {
  const region = form.querySelector("[data-preview]");
  let timer, latest = 0;
  form.addEventListener("input", (event) => {
    if (!region.dataset.fields.split(" ").includes(event.target.name)) return;
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const number = ++latest;
      const data = new FormData(form);
      const query = new URLSearchParams();
      for (const name of region.dataset.fields.split(" ")) query.set(name, data.get(name) ?? "");
      const answer = await fetch(`${root}${region.dataset.preview}?${query}`).catch(() => null);
      if (number !== latest || !answer?.ok) return;
      region.innerHTML = await answer.text();
      const faulty = (region.querySelector("[data-faults]")?.dataset.faults ?? "").split(" ");
      for (const name of region.dataset.fields.split(" ")) {
        const input = form.querySelector(`#f-${name}`);
        if (faulty.includes(name)) input?.setAttribute("aria-invalid", "true");
        else input?.removeAttribute("aria-invalid");
      }
    }, 250);
  });
}
