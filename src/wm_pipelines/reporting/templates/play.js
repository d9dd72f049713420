// The page: keys, clock, two worlds under one action, meters and lines.
(() => {
  "use strict";
  const SHOWN = 30; // seconds of the lines
  const TRAIL = 14; // steps of the trail
  const $ = (id) => document.getElementById(id);
  const entries = JSON.parse($("worlds").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const written = (x, digits = 2) => (Number.isFinite(x) ? x.toFixed(digits).replace("-", "−") : "–");
  const held = new Set();
  const sheet = document.createElement("canvas"); // of as many pixels as a picture has
  let entry, world, graph, start, z, belief, seen, picture, past, trails, clock;
  let state = "waiting"; // for the first key; then running or paused
  let shownFrames = 0, since = performance.now(), steps = 0, before = 0, owed = 0;

  function button(parent, text, pressed, action) {
    const made = parent.appendChild(document.createElement("button"));
    made.type = "button";
    made.textContent = text;
    made.setAttribute("aria-pressed", String(pressed));
    made.addEventListener("click", () => {
      for (const other of parent.children) other.setAttribute("aria-pressed", String(other === made));
      made.blur(); // the space bar is for the clock
      action();
    });
  }

  function choose(chosen) {
    entry = chosen;
    world = Worlds[entry.kind](entry.parameters, entry.step);
    graph = Onnx.load(bytes(entry.graph));
    start = entry.starts[0];
    $("starts").replaceChildren();
    entry.starts.forEach((own, i) => button($("starts"), own.name, i === 0, () => { start = own; reset(); }));
    $("keys").replaceChildren();
    for (const key of world.keys) {
      const made = $("keys").appendChild(document.createElement("button"));
      made.type = "button";
      made.tabIndex = -1;
      made.className = "cap";
      made.dataset.code = key.code;
      made.textContent = key.label;
      made.title = made.ariaLabel = `${key.label} ${key.does}`;
      made.addEventListener("pointerdown", (event) => { event.preventDefault(); press(key.code); });
      for (const end of ["pointerup", "pointerleave", "pointercancel"]) made.addEventListener(end, () => release(key.code));
    }
    $("does").textContent = world.keys.map((key) => `${key.label} ${key.does}`).join(", ");
    const filmed = entry.starts[0].film !== undefined;
    $("lead").hidden = filmed;
    $("lead-film").hidden = !filmed;
    $("truth-title").textContent = filmed ? "What really followed" : "The true world";
    $("meters").hidden = $("lines").hidden = !world.gap;
    $("model").textContent = $("model-too").textContent = entry.model;
    for (const dot of document.querySelectorAll(".learned-dot")) dot.style.background = entry.colour;
    $("story").textContent = entry.story;
    $("meters").replaceChildren(...world.quantities.map(meter));
    if (world.gap) {
      $("gap-title").textContent = `${world.gap.name} [${world.gap.unit}]`;
      $("quantity-title").textContent = `${world.quantities[0].name} [${world.quantities[0].unit}]`;
    }
    reset();
  }

  function meter(quantity) {
    const row = document.createElement("div");
    row.className = "meter";
    row.innerHTML = `<h3></h3><div class="scale"><i></i></div><output></output><div class="scale"><i></i></div><output></output>`;
    row.querySelector("h3").textContent = quantity.name;
    row.querySelector("h3").title = `In the true world: ${quantity.kept}.`;
    const small = row.querySelector("h3").appendChild(document.createElement("small"));
    small.textContent = quantity.kept;
    return row;
  }

  function reset() {
    z = [...start.state];
    belief = { dims: entry.belief, data: Float64Array.from(start.belief) };
    const shown = world.observe(z);
    picture = first();
    seen = { truth: shown, learned: picture ? world.read(picture, picture) : [...shown] };
    past = [];
    trails = { truth: [], learned: [] };
    clock = 0;
    if (state === "running") state = "waiting";
    owed = 0;
    note();
    tell();
  }

  // What a model of pictures has seen at the start; null of a model of states.
  const first = () => entry.frame && (start.first ??= told(start.picture));
  const told = (text) => ({ dims: [1, ...entry.frame], data: Float64Array.from(bytes(text), (byte) => byte / 255) });

  function action() {
    const found = Array(entry.action).fill(0), down = [...held].filter((code) => world.keys.some((key) => key.code === code));
    const counts = world.single ? down.slice(-1) : down; // the last one pressed, or all
    for (const key of world.keys) if (counts.includes(key.code)) found[key.entry] += key.value;
    return found;
  }

  // One step of both under the same action.
  function advance() {
    const a = action();
    z = world.advance(z, a);
    const found = graph.run({ belief, action: { dims: [1, a.length], data: Float64Array.from(a) } });
    belief = found.next_belief;
    if (picture) picture = found.observation;
    const learned = picture ? world.read(picture, first()) : Array.from(found.observation.data);
    for (const [name, own] of Object.entries({ truth: world.observe(z), learned })) {
      trails[name] = [...trails[name], seen[name]].slice(-TRAIL);
      seen[name] = own;
    }
    clock++;
    steps++;
    note();
  }

  function note() {
    if (!world.gap) return;
    const of = world.quantities[0].of;
    past.push([clock * entry.step, of(seen.truth), of(seen.learned), world.gap.of(seen.truth, seen.learned)]);
    while (past[0][0] < clock * entry.step - SHOWN) past.shift();
  }

  // ---------------------------------------------------------------- keys

  const buttons = { Space: () => run(), Period: () => single(), KeyR: () => reset() };

  function press(code) {
    held.add(code);
    if (state === "waiting") state = "running";
    tell();
  }

  function release(code) {
    held.delete(code);
    tell();
  }

  function run() {
    state = state === "running" ? "paused" : "running";
    tell();
  }

  function single() {
    state = "paused";
    advance();
    tell();
  }

  function tell() {
    for (const cap of $("keys").children) cap.classList.toggle("down", held.has(cap.dataset.code));
    $("run").firstChild.textContent = state === "running" ? "Pause " : "Run ";
    $("hint").textContent = { waiting: world.single ? "Hold a number to begin." : "Hold an arrow key to begin.", running: "", paused: "Paused." }[state];
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const ours = world.keys.some((key) => key.code === event.code);
    if (!ours && !buttons[event.code]) return;
    if (event.code === "Space" && event.target.closest?.("button, summary, a")) return; // that presses what has the focus
    event.preventDefault();
    if (event.repeat && event.code !== "Period") return;
    if (ours) press(event.code);
    else buttons[event.code]();
  });
  addEventListener("keyup", (event) => release(event.code));
  addEventListener("blur", () => { held.clear(); tell(); });
  $("run").addEventListener("click", (event) => { event.currentTarget.blur(); run(); });
  $("single").addEventListener("click", (event) => { event.currentTarget.blur(); single(); });
  $("again").addEventListener("click", (event) => { event.currentTarget.blur(); reset(); });

  // ---------------------------------------------------------------- drawing

  // A cleared canvas of as many pixels as the screen has for it.
  function cleared(canvas) {
    const box = canvas.getBoundingClientRect(), fine = devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * fine), Math.round(box.height * fine)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const ctx = canvas.getContext("2d");
    ctx.setTransform(fine, 0, 0, fine, 0, 0);
    ctx.clearRect(0, 0, box.width, box.height);
    return [ctx, box.width, box.height];
  }

  function stage(name, colours, colour) {
    const [ctx, width, height] = cleared($(name));
    const size = Math.min(width, height);
    ctx.translate((width - size) / 2, (height - size) / 2);
    if (picture && name === "learned") paint(ctx, size, picture);
    else if (start.film) paint(ctx, size, (start.pictures ??= start.film.map(told))[Math.min(z[0], start.film.length - 1)]);
    else world.draw({ ctx, size, ...colours, colour }, seen[name], action(), [...trails[name], seen[name]]);
  }

  // The picture, pixel by pixel.
  function paint(ctx, size, picture) {
    const [, channels, height, width] = picture.dims, area = height * width, pixels = new Uint8ClampedArray(4 * area);
    for (let i = 0; i < area; i++) {
      for (const c of [0, 1, 2]) pixels[4 * i + c] = 255 * picture.data[(c % channels) * area + i];
      pixels[4 * i + 3] = 255;
    }
    [sheet.width, sheet.height] = [width, height];
    sheet.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(sheet, 0, 0, size, size);
  }

  function lines(canvas, columns, colours, ends) {
    const [ctx, width, height] = cleared(canvas), left = 44, right = 8, top = 8, bottom = 20;
    const last = Math.max(clock * entry.step, 5), first = Math.max(0, last - SHOWN);
    const found = past.flatMap((row) => columns.map(([i]) => row[i])).filter(Number.isFinite);
    let low = Math.min(ends[0], ...found), high = Math.max(ends[1], ...found);
    const x = (t) => left + ((width - left - right) * (t - first)) / (last - first);
    const y = (v) => height - bottom - ((height - top - bottom) * (v - low)) / (high - low);
    ctx.font = "12px system-ui, sans-serif";
    ctx.fillStyle = colours.soft;
    ctx.strokeStyle = colours.line;
    ctx.lineWidth = 1;
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    const places = (high - low) < 0.05 ? 3 : (high - low) < 5 ? 2 : 0;
    for (const v of [low, low < 0 && high > 0 ? 0 : (low + high) / 2, high]) {
      ctx.fillText(written(v, places), left - 6, y(v));
      ctx.beginPath();
      ctx.moveTo(left, y(v));
      ctx.lineTo(width - right, y(v));
      ctx.stroke();
    }
    ctx.textBaseline = "alphabetic";
    ctx.textAlign = "left";
    ctx.fillText(`${written(first, 0)} s`, left, height - 5);
    ctx.textAlign = "right";
    ctx.fillText(`${written(last, 0)} s`, width - right, height - 5);
    ctx.lineJoin = "round";
    for (const [i, colour, dash] of columns) {
      ctx.strokeStyle = colour;
      ctx.lineWidth = 2;
      ctx.setLineDash(dash);
      ctx.beginPath();
      for (const row of past) if (Number.isFinite(row[i])) ctx.lineTo(x(row[0]), y(row[i]));
      ctx.stroke();
    }
    ctx.setLineDash([]);
  }

  function meters(colours) {
    world.quantities.forEach((quantity, k) => {
      const row = $("meters").children[k], [low, high] = quantity.range, zero = Math.max(low, Math.min(0, high));
      ["truth", "learned"].forEach((name, i) => {
        const value = quantity.of(seen[name]), bar = row.querySelectorAll("i")[i];
        const share = (v) => (100 * (Math.min(Math.max(v, low), high) - low)) / (high - low);
        const ends = [share(value), share(quantity.unit === "J" ? low : zero)].sort((a, b) => a - b);
        bar.style.left = `${ends[0] || 0}%`;
        bar.style.width = `${Math.max(ends[1] - ends[0], 0.6) || 0}%`;
        bar.style.background = name === "truth" ? colours.ink : entry.colour;
        row.querySelectorAll("output")[i].textContent = `${written(value)} ${quantity.unit}`;
      });
    });
  }

  function draw(now) {
    const passed = Math.min(now - before, 250); // a page that was hidden does not catch up
    before = now;
    if (state === "running") {
      owed += passed / 1000;
      while (owed >= entry.step) {
        advance();
        owed -= entry.step;
        if (performance.now() - now > 40) owed = Math.min(owed, entry.step / 2); // pictures come first
      }
    }
    const colours = { ink: style("--ink"), soft: style("--soft"), line: style("--line"), page: style("--page") };
    stage("truth", colours, colours.ink);
    stage("learned", colours, entry.colour);
    meters(colours);
    if (world.gap) {
      lines($("energies"), [[1, colours.ink, []], [2, entry.colour, [6, 4]]], colours, world.quantities[0].range);
      lines($("gaps"), [[3, entry.colour, []]], colours, [0, 0.02]);
      $("gap").textContent = `${written(world.gap.of(seen.truth, seen.learned), 3)} ${world.gap.unit}`;
    }
    const time = `${written(clock * entry.step)} s`;
    if ($("clock").textContent !== time) $("clock").textContent = time;
    shownFrames++;
    if (now - since >= 1000) {
      const each = 1000 / (now - since);
      $("rate").textContent = `${Math.round(shownFrames * each)} pictures/s, ${Math.round(steps * each)} steps/s`;
      [shownFrames, steps, since] = [0, 0, now];
    }
    requestAnimationFrame(draw);
  }

  if (entries.length > 1) entries.forEach((own, i) => button($("choice"), own.title, i === 0, () => choose(own)));
  else $("choice").parentElement.hidden = true;
  choose(entries[0]);
  requestAnimationFrame((now) => { before = since = now; draw(now); });
})();
