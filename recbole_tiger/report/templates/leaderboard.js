(() => {
  const groups = JSON.parse(document.getElementById("groups").textContent);
  const number = text => {
    const found = text.replace(/,/g, "").match(/^[+\-\u2212]?\d*\.?\d+(e[+-]?\d+)?/i);
    return found ? parseFloat(found[0].replace("\u2212", "-")) : null;
  };
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], rows = [...body.rows];
    for (const row of rows) for (const cell of row.cells) {
      const mark = cell.textContent.slice(-2);
      if (mark === " *" || mark === " +") {
        const marked = document.createElement(mark === " *" ? "b" : "u");
        marked.textContent = cell.textContent.slice(0, -2);
        cell.replaceChildren(marked);
      }
    }
    heads.forEach((head, column) => {
      const values = rows.map(row => row.cells[column].textContent.trim());
      const filled = values.filter(text => text && text !== "-");
      const numeric = column > 0 && filled.length > 0 && filled.every(text => number(text) !== null);
      if (numeric) for (const cell of [head, ...rows.map(row => row.cells[column])]) cell.classList.add("number");
      head.setAttribute("aria-sort", "none");
      head.tabIndex = 0;
      const sort = () => {
        const down = head.getAttribute("aria-sort") === "none" ? numeric : head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = row => row.cells[column].textContent.trim();
        const empty = text => text === "" || text === "-";
        const order = [...rows].sort((a, b) => {
          const x = key(a), y = key(b);
          if (empty(x) || empty(y)) return empty(x) - empty(y);
          const way = numeric ? number(x) - number(y) : x.localeCompare(y);
          return down ? -way : way;
        });
        body.append(...order);
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
    });
  }
  const chosen = {};
  const apply = () => groups.forEach((group, index) => {
    const section = document.getElementById("part-" + (index + 1));
    section.hidden = Object.entries(chosen).some(([name, value]) => value && group[name] !== value);
    if (!section.hidden && window.Plotly)
      section.querySelectorAll(".js-plotly-plot").forEach(plot => Plotly.Plots.resize(plot));
  });
  const bar = document.createElement("div");
  bar.className = "filters";
  for (const name of ["dataset", "protocol"]) {
    const label = document.createElement("label"), menu = document.createElement("select");
    menu.id = "filter-" + name;
    menu.add(new Option("all", ""));
    for (const value of [...new Set(groups.map(group => group[name]))]) menu.add(new Option(value, value));
    menu.addEventListener("change", () => { chosen[name] = menu.value; apply(); });
    label.append(name, menu);
    bar.append(label);
  }
  document.querySelector("header").after(bar);
})();
