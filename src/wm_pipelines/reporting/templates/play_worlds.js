// The true worlds of the page: the steps of `wm_pipelines/worlds`, written out again, and how their states are drawn.
//
// Worlds.NAME(parameters, step) gives
//   keys        what each key does: {code, label, entry, value, does}
//   advance     (plant state, action) -> the next plant state; observe: plant state -> what is shown of it
//   quantities  {name, unit, range, kept, of}: `of` what is shown; kept: whether the true world keeps it, and how
//   gap         {name, unit, of}: how far two that are shown are apart
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

  return { driven_pendulum };
})();
