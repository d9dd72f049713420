(function () {
  "use strict";
  const root = document.documentElement;
  const stored = (() => { try { return localStorage.getItem("report-theme"); } catch { return null; } })();
  const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.theme = stored || preferred;

  // ---- figures: drawn when they come into view, redrawn in the colours of the theme
  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const narrow = matchMedia("(max-width: 60rem)").matches;
  const bar = { displaylogo: false, displayModeBar: narrow || "hover", modeBarButtons: [["toImage", "resetScale2d"]] };
  const configured = (plot) => ({ responsive: true, ...bar, toImageButtonOptions: {
    format: "png", scale: 2, filename: plot.dataset.name.replace(/[^\p{L}\p{N}_-]+/gu, "_"),
  } });

  const hidden = (plot) => plot.closest("section").hiddenModels || new Set();

  function themed(figure, without) {
    const ink = style("--ink"), line = style("--line"), modebar = { bgcolor: "rgba(0,0,0,0)", color: style("--soft") };
    const ground = { paper_bgcolor: style("--page"), modebar };  // an exported picture has one, too
    const layout = Object.assign({}, figure.layout, ground, { font: Object.assign({}, figure.layout.font, { color: ink }) });
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
    if (typeof Plotly === "undefined") {
      plot.textContent = "Figures need the file plotly.min.js in the folder of this page.";
      plot.style.height = "auto";
      return;
    }
    const source = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
    const figure = themed(source, hidden(plot));
    plot.dataset.drawn = "yes";
    Plotly.react(plot, figure.data, figure.layout, configured(plot));
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

  // ---- tables: a click on a title sorts, best first; a second click turns the order round; empty cells stay last
  function key(row, column) {
    const cell = row.cells[column];
    if (cell.dataset.key === undefined) return cell.textContent.trim();
    return cell.dataset.key === "" ? null : Number(cell.dataset.key.replace("inf", "Infinity"));
  }

  function sort(table, column, title) {
    const before = title.getAttribute("aria-sort"), first = title.dataset.direction === "h" ? "descending" : "ascending";
    const order = before === null ? first : before === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", order);
    const sign = order === "descending" ? -1 : 1;
    const rows = Array.from(table.tBodies[0].rows, (row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "number" ? (a < b ? -1 : a > b ? 1 : 0) : a.localeCompare(b));
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
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

  // ---- what is wider than its place says so, and fades where there is more
  document.querySelectorAll(".scroll").forEach((box) => {
    const hint = document.createElement("p");
    hint.className = "hint sideways";
    hint.textContent = "Wider than the page: scroll sideways →";
    hint.hidden = true;
    box.before(hint);
    function look() {
      const more = box.scrollWidth - box.clientWidth;
      hint.hidden = more < 8;
      if (more >= 8) box.tabIndex = 0; else box.removeAttribute("tabindex");
      box.classList.toggle("more", more - box.scrollLeft >= 8);
    }
    box.addEventListener("scroll", look, { passive: true });
    const watch = new ResizeObserver(look);
    watch.observe(box);
    if (box.firstElementChild) watch.observe(box.firstElementChild);
  });

  // ---- filters: of the leaderboard's rows; columns that are not wanted or in which nothing is left vanish
  const filters = Array.from(document.querySelectorAll("[data-filter]"));
  const choices = Array.from(document.querySelectorAll("[data-column]"));
  const task = filters.find((f) => f.dataset.filter === "task");
  if (task && task.options.length > 2) task.selectedIndex = 1;  // tasks share hardly any column: one at a time
  if (narrow) {  // on a phone: what tells models apart
    choices.forEach((choice) => { if ("wide" in choice.dataset) choice.checked = false; });
  }
  function passes(row, filter) {
    const wanted = filter.value.trim(), has = row.dataset[filter.dataset.filter];
    if (!wanted) return true;
    if (filter.type === "search") return has.toLowerCase().includes(wanted.toLowerCase());
    if (filter.dataset.filter !== "knows") return has === wanted;
    return wanted === "-" ? !has : wanted === "+" ? Boolean(has) : has.split(",").includes(wanted);
  }

  function filter() {
    const table = document.querySelector("#leaderboard table");
    if (!table) return;
    const rows = Array.from(table.tBodies[0].rows), left = rows.filter((row) => filters.every((f) => passes(row, f)));
    rows.forEach((row) => { row.hidden = true; });
    left.forEach((row) => { row.hidden = false; });
    const refused = new Set(choices.filter((choice) => !choice.checked).map((choice) => Number(choice.dataset.column)));
    Array.from(table.tHead.rows[0].cells).forEach((title, column) => {
      const empty = left.length > 0 && left.every((row) => row.cells[column].textContent.trim() === "");
      title.hidden = empty || refused.has(column);
      choices.filter((choice) => Number(choice.dataset.column) === column).forEach((choice) => {
        choice.closest("label").hidden = empty;
      });
      rows.forEach((row) => { row.cells[column].hidden = title.hidden; });
    });
    document.querySelectorAll(".count").forEach((count) => { count.value = `${left.length} of ${rows.length} rows`; });
  }
  [...filters, ...choices].forEach((f) => f.addEventListener("input", filter));
  filter();

  // ---- animations: pause, and step to any frame where the browser can decode single frames
  document.querySelectorAll(".player").forEach((player) => {
    const image = player.querySelector("img"), controls = player.querySelector(".controls");
    const [button, slider, label] = controls.children;
    const moving = image.getAttribute("src"), calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    let playing = !calm;
    const named = () => { button.textContent = playing ? "Pause" : "Play"; };
    const bytes = () => Uint8Array.from(atob(moving.split(",")[1]), (c) => c.charCodeAt(0));
    controls.hidden = false;
    named();

    async function decoded() {
      const decoder = new ImageDecoder({ data: bytes(), type: "image/webp" });
      await decoder.tracks.ready;
      const count = decoder.tracks.selectedTrack.frameCount, canvas = document.createElement("canvas");
      canvas.className = "animation";
      [canvas.width, canvas.height] = ["width", "height"].map((side) => Number(image.getAttribute(side)));
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", image.alt);
      slider.max = count - 1;
      let timer = 0;
      async function show(index) {
        const { image: frame } = await decoder.decode({ frameIndex: index });
        canvas.getContext("2d").drawImage(frame, 0, 0);
        const milliseconds = frame.duration / 1000;
        frame.close();
        slider.value = index;
        const at = index * Number(player.dataset.scale) + Number(player.dataset.first);
        label.value = player.dataset.unit.replace("{}", Number(at.toPrecision(4)));
        clearTimeout(timer);
        if (playing) timer = setTimeout(() => show((index + 1) % count), milliseconds);
      }
      await show(0);
      image.closest("picture").replaceWith(canvas);
      button.addEventListener("click", () => { playing = !playing; named(); show(Number(slider.value)); });
      slider.addEventListener("input", () => { playing = false; named(); show(Number(slider.value)); });
    }

    function simple() {
      const source = player.querySelector("source"), still = source.srcset;
      slider.remove();
      button.addEventListener("click", () => {
        playing = !playing;
        source.remove();
        image.src = playing ? moving : still;
        named();
      });
    }

    if (typeof ImageDecoder === "undefined") simple(); else decoded().catch(simple);
  });

  // ---- contents: mark the section on screen; closed on a phone
  if (narrow) document.querySelector("nav details").open = false;
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
