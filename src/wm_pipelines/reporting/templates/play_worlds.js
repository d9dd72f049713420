// The true worlds of the page: the steps of `wm_pipelines/worlds`, written out again, and how their states are drawn.
//
// Worlds.NAME(parameters, step) gives
//   keys        what each key does: {code, label, entry, value, does}
//   advance     (plant state, action) -> the next plant state; observe: plant state -> what is shown of it
//   read        (picture, first picture) -> what is shown, of worlds that can be told from their pictures {dims, data}
//   quantities  {name, unit, range, kept, of}: `of` what is shown; kept: whether the true world keeps it, and how
//   gap         {name, unit, of}: how far two that are shown are apart; null, and no quantities: nothing is measured
//   single      whether one key counts at a time
//   draw        (pen, seen, action, trail): pen = {ctx, size, ink, soft, line, page, colour}
const Worlds = (() => {
  "use strict";
  const clip = (x, low, high) => Math.min(Math.max(x, low), high);
  const FASTEST = 8; // rad/s

  function driven_pendulum(p, step) {
    const inertia = (p.mass * p.length ** 2) / 3, weight = 0.5 * p.mass * p.gravity * p.length;
    const most = 0.5 * inertia * FASTEST ** 2;

    function advance([angle, speed], action) {
      let torque = clip(p.torque * action[0], -p.torque, p.torque);
      if (p.friction) torque -= p.friction * speed;
      const pull = ((3 * p.gravity) / (2 * p.length)) * Math.sin(angle) + (3 / (p.mass * p.length ** 2)) * torque;
      const faster = clip(speed + pull * step, -FASTEST, FASTEST);
      return [angle + faster * step, faster];
    }

    const tip = (seen) => [p.length * seen[1], p.length * seen[0]];

    function draw({ ctx, size, ink, soft, line, page, colour }, seen, action, trail) {
      const metre = size / (2 * 1.35 * p.length), centre = size / 2;
      const at = (place) => [centre + metre * place[0], centre - metre * place[1]];
      ctx.lineCap = "butt"; // pieces of the trail do not overlap
      ctx.strokeStyle = line;
      ctx.lineWidth = 1;
      ctx.beginPath();
      ctx.arc(centre, centre, metre * p.length, 0, 2 * Math.PI);
      ctx.stroke();
      for (let i = 1; i < trail.length; i++) {
        ctx.globalAlpha = (0.35 * i) / trail.length;
        ctx.strokeStyle = colour;
        ctx.lineWidth = 3;
        ctx.beginPath();
        ctx.moveTo(...at(tip(trail[i - 1])));
        ctx.lineTo(...at(tip(trail[i])));
        ctx.stroke();
      }
      ctx.globalAlpha = 1;
      ctx.lineCap = "round";
      const [x, y] = at(tip(seen));
      ctx.strokeStyle = ink;
      ctx.lineWidth = 0.08 * metre * p.length;
      ctx.beginPath();
      ctx.moveTo(centre, centre);
      ctx.lineTo(x, y);
      ctx.stroke();
      disc(ctx, x, y, 0.15 * metre * p.length, colour, page);
      disc(ctx, centre, centre, 0.07 * metre * p.length, ink, page);
      if (action[0]) turn(ctx, centre, 0.3 * metre * p.length, action[0], soft);
    }

    return {
      keys: [
        { code: "ArrowLeft", label: "←", entry: 0, value: -1, does: "turns it anticlockwise" },
        { code: "ArrowRight", label: "→", entry: 0, value: 1, does: "turns it clockwise" },
      ],
      advance,
      observe: ([angle, speed]) => [Math.cos(angle), Math.sin(angle), speed],
      quantities: [
        {
          name: "Energy", unit: "J", range: [-2 * weight, most], kept: "changed by the motor, a little by the coarse step",
          of: (seen) => 0.5 * inertia * seen[2] ** 2 + weight * (seen[0] - 1),
        },
        {
          name: "Angular momentum", unit: "kg m²/s", range: [-inertia * FASTEST, inertia * FASTEST],
          kept: "changed by gravity and the motor", of: (seen) => inertia * seen[2],
        },
        { name: "Length of the rod", unit: "m", range: [0, 1.5 * p.length], kept: "never changes",
          of: (seen) => p.length * Math.hypot(seen[0], seen[1]) },
      ],
      gap: {
        name: "Distance between the tips", unit: "m",
        of: (one, other) => Math.hypot(...tip(one).map((x, i) => x - tip(other)[i])),
      },
      draw,
    };
  }

  // The step of a point in a box with a wall and a door: straight until something is met.
  function two_rooms(p) {
    const half = p.side / 2, left = p.wall - p.thickness / 2, right = p.wall + p.thickness / 2, seen = half + p.thickness;
    const walls = [
      [[left, -2 * half], [right, p.door - p.door_width / 2]],
      [[left, p.door + p.door_width / 2], [right, 2 * half]],
    ];

    // Share of the way at which the open rectangle is entered; infinite where it is not.
    function met(z, by, [low, high]) {
      let enters = -Infinity, leaves = Infinity;
      for (const i of [0, 1]) {
        if (by[i] === 0) {
          if (z[i] <= low[i] || z[i] >= high[i]) return Infinity;
          continue;
        }
        const one = (low[i] - z[i]) / by[i], other = (high[i] - z[i]) / by[i];
        enters = Math.max(enters, Math.min(one, other));
        leaves = Math.min(leaves, Math.max(one, other));
      }
      return enters >= 0 && enters < leaves ? enters : Infinity;
    }

    // Places that rounding left inside a rectangle, put onto its nearest side.
    function putOut(z, [low, high]) {
      if (z.some((x, i) => x <= low[i] || x >= high[i])) return z;
      const deep = z.map((x, i) => Math.min(x - low[i], high[i] - x)), least = Math.min(...deep);
      return z.map((x, i) => (deep[i] > least ? x : x - low[i] < high[i] - x ? low[i] : high[i]));
    }

    function advance(z, action) {
      const by = action.map((a) => p.stride * clip(a, -1, 1));
      const box = z.map((x, i) => (by[i] === 0 ? Infinity : (Math.sign(by[i]) * half - x) / by[i]));
      const share = clip(Math.min(...box, ...walls.map((wall) => met(z, by, wall))), 0, 1);
      return walls.reduce(putOut, z.map((x, i) => clip(x + share * by[i], -half, half)));
    }

    // How red a pixel is: paper and walls hardly are. Centre of what is red in m, and how much there is of it.
    function red({ dims: [, , height, width], data }) {
      let sum = 0, x = 0, y = 0;
      for (let i = 0, area = height * width; i < area; i++) {
        const share = Math.max(0, data[i] - 0.5 * (data[area + i] + data[2 * area + i]) - 0.1);
        sum += share;
        x += share * ((2 * ((i % width) + 0.5)) / width - 1);
        y += share * (1 - (2 * (Math.floor(i / width) + 0.5)) / height);
      }
      return [(seen * x) / sum, (seen * y) / sum, sum / (height * width)];
    }

    function draw({ ctx, size, ink, colour }, place, action, trail) {
      const metre = size / (2 * seen), at = ([x, y]) => [size / 2 + metre * x, size / 2 - metre * y];
      ctx.fillStyle = "#f6f5f1"; // as in the data
      ctx.fillRect(0, 0, size, size);
      ctx.strokeStyle = ctx.fillStyle = "#3b404a";
      ctx.lineWidth = metre * p.thickness;
      const edge = half + p.thickness / 2;
      ctx.strokeRect(...at([-edge, edge]), 2 * metre * edge, 2 * metre * edge);
      for (const [low, high] of walls) {
        const [from, to] = [Math.max(low[1], -half), Math.min(high[1], half)];
        ctx.fillRect(...at([left, to]), metre * p.thickness, metre * (to - from));
      }
      ctx.lineWidth = 2;
      for (let i = 1; i < trail.length; i++) {
        ctx.globalAlpha = (0.35 * i) / trail.length;
        ctx.strokeStyle = "#d6423d";
        ctx.beginPath();
        ctx.moveTo(...at(trail[i - 1]));
        ctx.lineTo(...at(trail[i]));
        ctx.stroke();
      }
      ctx.globalAlpha = 1;
      disc(ctx, ...at(place), metre * 0.04 * p.side, "#d6423d", colour === ink ? "#f6f5f1" : colour);
    }

    return {
      keys: [
        { code: "ArrowLeft", label: "←", entry: 0, value: -1, does: "goes left" },
        { code: "ArrowRight", label: "→", entry: 0, value: 1, does: "goes right" },
        { code: "ArrowUp", label: "↑", entry: 1, value: 1, does: "goes up" },
        { code: "ArrowDown", label: "↓", entry: 1, value: -1, does: "goes down" },
      ],
      advance,
      observe: (z) => z,
      read: (picture, first) => {
        const [x, y, amount] = red(picture);
        return [x, y, amount / red(first)[2]];
      },
      quantities: [
        { name: "Place from left to right", unit: "m", range: [-half, half], kept: "changed by the keys; the wall stops it",
          of: (place) => place[0] },
        { name: "Place from bottom to top", unit: "m", range: [-half, half], kept: "changed by the keys; the box stops it",
          of: (place) => place[1] },
        { name: "How much of the point there is", unit: "", range: [0, 2], kept: "never changes", of: (place) => place[2] ?? 1 },
      ],
      gap: {
        name: "Distance between the points", unit: "m",
        of: (one, other) => Math.hypot(one[0] - other[0], one[1] - other[1]),
      },
      draw,
    };
  }

  // What is known by its recordings alone: keys give codes, one at a time; beside it runs a film.
  function recorded(p) {
    return {
      keys: Array.from({ length: Math.min(p.codes, 9) }, (_, i) => (
        { code: `Digit${i + 1}`, label: String(i + 1), entry: i, value: 1, does: `code ${i + 1}` }
      )),
      single: true,
      advance: ([row]) => [row + 1],
      observe: (z) => z,
      read: () => [0],
      quantities: [],
      gap: null,
      draw: () => {},
    };
  }

  function disc(ctx, x, y, radius, colour, rim) {
    ctx.fillStyle = colour;
    ctx.strokeStyle = rim;
    ctx.lineWidth = 2;
    ctx.beginPath();
    ctx.arc(x, y, radius, 0, 2 * Math.PI);
    ctx.fill();
    ctx.stroke();
  }

  // A bent arrow about the middle: what the motor does.
  function turn(ctx, centre, radius, sense, colour) {
    const from = -Math.PI / 2 - sense * 0.9, to = -Math.PI / 2 + sense * 0.9, head = 0.3 * radius;
    ctx.strokeStyle = ctx.fillStyle = colour;
    ctx.lineWidth = 3;
    ctx.beginPath();
    ctx.arc(centre, centre, radius, from, to, sense < 0);
    ctx.stroke();
    const x = centre + radius * Math.cos(to), y = centre + radius * Math.sin(to), ahead = to + (sense * Math.PI) / 2;
    ctx.beginPath();
    for (const [far, aside] of [[1, 0], [0, 0.6], [0, -0.6]])
      ctx.lineTo(
        x + head * (far * Math.cos(ahead) - aside * Math.sin(ahead)),
        y + head * (far * Math.sin(ahead) + aside * Math.cos(ahead)),
      );
    ctx.fill();
  }

  return { driven_pendulum, two_rooms, recorded };
})();
