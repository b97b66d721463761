"use strict";
// Sorting and filtering; without it the page shows everything in the order of the runs.
(() => {
  const number = (text) => (text.trim() === "" ? NaN : Number(text));

  // Numbers by size, all else by name; empty cells last either way.
  const compare = (a, b, sign) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [number(a), number(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
    return sign * a.localeCompare(b, "en", { numeric: true });
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => {
      head.querySelector("button").addEventListener("click", () => {
        const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        const value = (row) => row.cells[place].dataset.v;
        rows.sort((a, b) => compare(value(a), value(b), sign));
        table.tBodies[0].append(...rows);
      });
    });
  }

  // What a run has, by the heading of its column.
  const table = document.getElementById("table");
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const runs = new Map();
  for (const row of table.tBodies[0].rows) {
    const cells = [...row.cells].map((cell) => cell.dataset.v);
    runs.set(row.dataset.run, { cells, text: row.textContent.toLowerCase() });
  }

  const meets = (run, word) => {
    const found = /^([^=<>!]+)(!=|<=|>=|=|<|>)(.*)$/.exec(word);
    const place = found ? names.findIndex((name) => name.toLowerCase() === found[1]) : -1;
    if (place < 0) return run.text.includes(word);
    const [value, sign, wanted] = [run.cells[place].toLowerCase(), found[2], found[3]];
    const [x, y] = [number(value), number(wanted)];
    if (wanted === "") return true;
    if (sign === "<") return x < y;
    if (sign === ">") return x > y;
    if (sign === "<=") return x <= y;
    if (sign === ">=") return x >= y;
    const same = (text) => value === text || (!Number.isNaN(x) && x === number(text));
    return wanted.split(",").some(same) === (sign === "=");
  };

  const input = document.getElementById("filter");
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = new Set();
    for (const [key, run] of runs) if (words.every((word) => meets(run, word))) kept.add(key);
    for (const item of document.querySelectorAll("[data-run]")) item.hidden = !kept.has(item.dataset.run);
    for (const item of document.querySelectorAll("[data-runs]")) {
      const own = item.dataset.runs.split(" ");
      item.style.opacity = own.some((key) => kept.has(key)) ? "" : "0.12";
    }
    document.getElementById("count").textContent = `${kept.size} of ${runs.size}`;
  };
  input.addEventListener("input", apply);
  if (input.value) apply();

  // A link to a run opens what it leads to.
  const open = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  addEventListener("hashchange", open);
  open();
})();
