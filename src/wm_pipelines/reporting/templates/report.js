(function () {
  "use strict";
  const root = document.documentElement;
  const stored = (() => { try { return localStorage.getItem("report-theme"); } catch { return null; } })();
  const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.theme = stored || preferred;

  // ---- figures: drawn when they come into view, redrawn in the colours of the theme
  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const config = { responsive: true, displayModeBar: false };

  const hidden = (plot) => plot.closest("section").hiddenModels || new Set();

  function themed(figure, without) {
    const ink = style("--ink"), line = style("--line");
    const layout = Object.assign({}, figure.layout, { font: Object.assign({}, figure.layout.font, { color: ink }) });
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) layout[key] = Object.assign({}, layout[key], { gridcolor: line, linecolor: line });
    }
    const data = figure.data.map((trace) => {
      const shown = Object.assign({}, trace, { visible: !without.has(trace.legendgroup) });
      if (trace.meta !== "ink") return shown;
      const part = trace.mode === "markers" ? "marker" : "line";
      return Object.assign(shown, { [part]: Object.assign({}, trace[part], { color: ink }) });
    });
    return { data, layout };
  }

  function draw(plot) {
    if (typeof Plotly === "undefined") return;
    const source = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
    const figure = themed(source, hidden(plot));
    plot.dataset.drawn = "yes";
    Plotly.react(plot, figure.data, figure.layout, config);
  }

  const plots = Array.from(document.querySelectorAll(".plot"));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "600px" });
  plots.forEach((plot) => watcher.observe(plot));
  addEventListener("beforeprint", () => plots.filter((p) => !p.dataset.drawn).forEach(draw));

  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("report-theme", root.dataset.theme); } catch { /* the choice lasts for this visit */ }
    plots.filter((plot) => plot.dataset.drawn).forEach(draw);
  });

  document.querySelectorAll("button.key").forEach((button) => button.addEventListener("click", () => {
    const section = button.closest("section");
    const without = section.hiddenModels = section.hiddenModels || new Set();
    if (!without.delete(button.dataset.model)) without.add(button.dataset.model);
    button.setAttribute("aria-pressed", String(!without.has(button.dataset.model)));
    plots.filter((plot) => plot.dataset.drawn && section.contains(plot)).forEach(draw);
  }));

  // ---- tables: a click on a title sorts, a second click turns the order round; empty cells stay last
  function key(row, column) {
    const cell = row.cells[column];
    if (cell.dataset.key === undefined) return cell.textContent.trim();
    return cell.dataset.key === "" ? null : Number(cell.dataset.key.replace("inf", "Infinity"));
  }

  function sort(table, column, title) {
    const descending = title.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = table.tBodies[0];
    const sign = descending ? -1 : 1;
    const rows = Array.from(body.rows, (row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "number" ? (a < b ? -1 : a > b ? 1 : 0) : a.localeCompare(b));
    });
    body.append(...rows.map(([, row]) => row));
  }

  document.querySelectorAll("table.sortable").forEach((table) => {
    Array.from(table.tHead.rows[0].cells).forEach((title, column) => {
      title.tabIndex = 0;
      title.addEventListener("click", () => sort(table, column, title));
      title.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        sort(table, column, title);
      });
    });
  });

  const filters = Array.from(document.querySelectorAll("select[data-filter]"));
  function filter() {
    document.querySelectorAll("#leaderboard tbody tr").forEach((row) => {
      row.hidden = filters.some((f) => f.value && row.dataset[f.dataset.filter] !== f.value);
    });
  }
  filters.forEach((select) => select.addEventListener("change", filter));

  // ---- contents: mark the section on screen; closed on a phone
  if (matchMedia("(max-width: 60rem)").matches) document.querySelector("nav details").open = false;
  const links = new Map(Array.from(document.querySelectorAll("nav a"), (a) => [a.hash.slice(1), a]));
  const spy = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((a) => a.classList.remove("here"));
      links.get(entry.target.id)?.classList.add("here");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  document.querySelectorAll("main > section").forEach((section) => spy.observe(section));
})();
