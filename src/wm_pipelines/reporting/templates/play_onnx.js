// A reader and evaluator of ONNX graphs, for those that `control/onnx_step.py` writes: the operations in `Onnx.operations`,
// on float32 weights, in double precision. Tensors are {dims, data}; data are Float64Array, or Array of whole numbers.
const Onnx = (() => {
  "use strict";

  // ---------------------------------------------------------------- the file (Protocol Buffers)

  // The fields of a message: [number, value] with value a BigInt (varint), a DataView (fixed) or bytes.
  function fields(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), found = [];
    let at = 0;
    const varint = () => {
      let value = 0n, shift = 0n, byte;
      do {
        byte = bytes[at++];
        value |= BigInt(byte & 127) << shift;
        shift += 7n;
      } while (byte & 128);
      return BigInt.asIntN(64, value);
    };
    while (at < bytes.length) {
      const tag = Number(varint()), wire = tag & 7;
      let value;
      if (wire === 0) value = varint();
      else if (wire === 1 || wire === 5) {
        const size = wire === 1 ? 8 : 4;
        value = new DataView(bytes.buffer, view.byteOffset + at, size);
        at += size;
      } else if (wire === 2) {
        const size = Number(varint());
        value = bytes.subarray(at, at + size);
        at += size;
      } else throw new Error(`not an ONNX file: wire type ${wire}`);
      found.push([tag >> 3, value]);
    }
    return found;
  }

  const all = (message, number) => message.filter(([n]) => n === number).map(([, value]) => value);
  const one = (message, number) => all(message, number)[0];
  const text = (bytes) => (bytes === undefined ? "" : new TextDecoder().decode(bytes));
  const whole = (value) => (value === undefined ? 0 : Number(value));

  // Whole numbers of a repeated field, one by one or packed.
  function wholes(message, number) {
    return all(message, number).flatMap((value) => {
      if (typeof value === "bigint") return [Number(value)];
      const found = [];
      for (let at = 0; at < value.length; ) {
        let end = at;
        while (value[end] & 128) end++;
        found.push(Number(fields(Uint8Array.of(8, ...value.subarray(at, end + 1)))[0][1]));
        at = end + 1;
      }
      return found;
    });
  }

  function tensor(bytes) {
    const message = fields(bytes), dims = wholes(message, 1), type = whole(one(message, 2)), raw = one(message, 9);
    const view = raw && new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
    if (type === 7) {
      const count = dims.reduce((a, b) => a * b, 1);
      const data = raw ? Array.from({ length: count }, (_, i) => Number(view.getBigInt64(8 * i, true))) : wholes(message, 7);
      return { name: text(one(message, 8)), dims, data };
    }
    if (type !== 1 || !raw) throw new Error(`a tensor of type ${type} is not read`);
    const data = Float64Array.from({ length: raw.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
    return { name: text(one(message, 8)), dims, data };
  }

  function attribute(bytes) {
    const message = fields(bytes), type = whole(one(message, 20));
    const value = type === 1 ? one(message, 2).getFloat32(0, true) : type === 2 ? whole(one(message, 3))
      : type === 3 ? text(one(message, 4)) : type === 7 ? wholes(message, 8) : null;
    return [text(one(message, 1)), value];
  }

  // ---------------------------------------------------------------- tensors

  const size = (dims) => dims.reduce((a, b) => a * b, 1);
  const along = (axis, dims) => (axis < 0 ? axis + dims.length : axis);
  const each = (f) => ([x]) => ({ dims: x.dims, data: x.data.map(f) });
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));

  // Elementwise with broadcasting.
  function pairwise(f) {
    return ([a, b]) => {
      const rank = Math.max(a.dims.length, b.dims.length);
      const pad = (x) => [...Array(rank - x.dims.length).fill(1), ...x.dims];
      const [p, q] = [pad(a), pad(b)], dims = p.map((n, i) => Math.max(n, q[i])), count = size(dims);
      const make = (n) => (a.data instanceof Float64Array || b.data instanceof Float64Array ? new Float64Array(n) : Array(n));
      const data = make(count);
      if (a.data.length === count && b.data.length === count) {
        for (let i = 0; i < count; i++) data[i] = f(a.data[i], b.data[i]);
        return { dims, data };
      }
      const steps = (own) => {
        const found = Array(rank);
        for (let i = rank - 1, step = 1; i >= 0; step *= own[i], i--) found[i] = own[i] === 1 ? 0 : step;
        return found;
      };
      const [s, t] = [steps(p), steps(q)], index = Array(rank).fill(0);
      for (let i = 0, x = 0, y = 0; i < count; i++) {
        data[i] = f(a.data[x], b.data[y]);
        for (let k = rank - 1; k >= 0; k--) {
          index[k]++;
          x += s[k];
          y += t[k];
          if (index[k] < dims[k]) break;
          x -= s[k] * dims[k];
          y -= t[k] * dims[k];
          index[k] = 0;
        }
      }
      return { dims, data };
    };
  }

  // What lies before an axis, along it, and behind it.
  const around = (dims, axis) => [size(dims.slice(0, axis)), dims[axis], size(dims.slice(axis + 1))];

  // Chosen places along one axis.
  function chosen(x, axis, places) {
    const [before, length, behind] = around(x.dims, axis), dims = [...x.dims];
    dims[axis] = places.length;
    const data = x.data instanceof Float64Array ? new Float64Array(size(dims)) : Array(size(dims));
    let at = 0;
    for (let i = 0; i < before; i++)
      for (const place of places)
        for (let j = 0; j < behind; j++) data[at++] = x.data[(i * length + place) * behind + j];
    return { dims, data };
  }

  function gemm([x, w, b], { alpha = 1, beta = 1, transA = 0, transB = 0 }) {
    if (transA) throw new Error("Gemm with transA is not evaluated");
    const [rows, inner] = x.dims, columns = transB ? w.dims[0] : w.dims[1], data = new Float64Array(rows * columns);
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) {
        let sum = 0;
        for (let k = 0; k < inner; k++) sum += x.data[r * inner + k] * (transB ? w.data[c * inner + k] : w.data[k * columns + c]);
        const bias = b === undefined ? 0 : b.data[b.data.length === 1 ? 0 : b.data.length === columns ? c : r * columns + c];
        data[r * columns + c] = alpha * sum + beta * bias;
      }
    return { dims: [rows, columns], data };
  }

  function layerNormalization([x, scale, bias], { axis = -1, epsilon = 1e-5 }) {
    const width = size(x.dims.slice(along(axis, x.dims))), data = new Float64Array(x.data.length);
    for (let at = 0; at < data.length; at += width) {
      let mean = 0, variance = 0;
      for (let i = 0; i < width; i++) mean += x.data[at + i] / width;
      for (let i = 0; i < width; i++) variance += (x.data[at + i] - mean) ** 2 / width;
      const over = 1 / Math.sqrt(variance + epsilon);
      for (let i = 0; i < width; i++)
        data[at + i] = (x.data[at + i] - mean) * over * scale.data[i] + (bias === undefined ? 0 : bias.data[i]);
    }
    return { dims: x.dims, data };
  }

  function slice([x, starts, ends, axes, steps]) {
    return starts.data.reduce((found, start, i) => {
      const axis = along(axes ? axes.data[i] : i, x.dims), length = found.dims[axis], step = steps ? steps.data[i] : 1;
      if (step < 1) throw new Error("Slice backwards is not evaluated");
      const place = (at) => Math.min(Math.max(at < 0 ? at + length : at, 0), length), places = [];
      for (let at = place(start); at < place(ends.data[i]); at += step) places.push(at);
      return chosen(found, axis, places);
    }, x);
  }

  // Parts along an axis, of given lengths or as many of equal length, the last one shorter where they do not divide it.
  function split([x, lengths], { axis = 0, num_outputs: count }) {
    const where = along(axis, x.dims), length = x.dims[where], even = Math.ceil(length / count);
    const parts = lengths ? lengths.data : Array.from({ length: count }, (_, i) => Math.min(even, length - i * even));
    let from = 0;
    return parts.map((part) => chosen(x, where, Array.from({ length: part }, () => from++)));
  }

  function gather([x, indices], { axis = 0 }) {
    const where = along(axis, x.dims), length = x.dims[where];
    const found = chosen(x, where, Array.from(indices.data, (i) => (i < 0 ? i + length : i)));
    return { dims: [...x.dims.slice(0, where), ...indices.dims, ...x.dims.slice(where + 1)], data: found.data };
  }

  function concat(parts, { axis }) {
    const where = along(axis, parts[0].dims), dims = [...parts[0].dims];
    dims[where] = parts.reduce((sum, part) => sum + part.dims[where], 0);
    const real = parts.some((part) => part.data instanceof Float64Array);
    const data = real ? new Float64Array(size(dims)) : Array(size(dims)), [before] = around(dims, where);
    let at = 0;
    for (let i = 0; i < before; i++)
      for (const part of parts) {
        const [, length, behind] = around(part.dims, where), width = length * behind;
        for (let j = 0; j < width; j++) data[at++] = part.data[i * width + j];
      }
    return { dims, data };
  }

  function reduceMean([x, axes], { keepdims = 1 }) {
    const gone = axes ? axes.data.map((axis) => along(axis, x.dims)) : x.dims.map((_, i) => i);
    const kept = x.dims.map((n, i) => (gone.includes(i) ? 1 : n)), data = new Float64Array(size(kept));
    const share = size(kept) / size(x.dims), index = Array(x.dims.length).fill(0);
    for (const value of x.data) {
      data[index.reduce((at, place, i) => at * kept[i] + (kept[i] === 1 ? 0 : place), 0)] += share * value;
      for (let k = index.length - 1; k >= 0 && ++index[k] === x.dims[k]; k--) index[k] = 0;
    }
    return { dims: keepdims ? kept : kept.filter((_, i) => !gone.includes(i)), data };
  }

  function reshape([x, shape]) {
    const dims = [...shape.data], open = dims.indexOf(-1);
    if (open >= 0) dims[open] = x.data.length / -size(dims);
    return { dims, data: x.data };
  }

  function plain({ group = 1, dilations = [1, 1], auto_pad = "" }) {
    if (group !== 1 || dilations.some((d) => d !== 1) || !["", "NOTSET"].includes(auto_pad ?? ""))
      throw new Error("convolutions with groups, dilations or automatic padding are not evaluated");
  }

  let scratch = new Float64Array(0);

  // What a filter sees, one row for each of its entries: [C kh kw, rows columns] of an image that starts at `from`.
  function patches(x, from, [inputs, height, width], [kh, kw], [sy, sx], [top, left], [rows, columns]) {
    const count = inputs * kh * kw * rows * columns;
    if (scratch.length < count) scratch = new Float64Array(count);
    const found = scratch; // of the last convolution: nothing is kept of it
    let to = 0;
    for (let c = 0; c < inputs; c++)
      for (let i = 0; i < kh; i++)
        for (let j = 0; j < kw; j++)
          for (let r = 0; r < rows; r++) {
            const y = r * sy + i - top, line = from + (c * height + y) * width;
            for (let k = 0; k < columns; k++, to++) {
              const at = k * sx + j - left;
              found[to] = y >= 0 && y < height && at >= 0 && at < width ? x[line + at] : 0;
            }
          }
    return found;
  }

  function conv([x, w, b], attributes) {
    plain(attributes);
    const [batch, inputs, height, width] = x.dims, [outputs, , kh, kw] = w.dims;
    const { strides: [sy, sx] = [1, 1], pads: [top, left, bottom, right] = [0, 0, 0, 0] } = attributes;
    const rows = Math.floor((height + top + bottom - kh) / sy) + 1, columns = Math.floor((width + left + right - kw) / sx) + 1;
    const area = rows * columns, entries = inputs * kh * kw, whole = entries - (entries % 4);
    const data = new Float64Array(batch * outputs * area), weights = w.data;
    for (let n = 0; n < batch; n++) {
      const seen = patches(x.data, n * inputs * height * width, x.dims.slice(1), [kh, kw], [sy, sx], [top, left], [rows, columns]);
      for (let o = 0; o < outputs; o++) data.fill(b === undefined ? 0 : b.data[o], (n * outputs + o) * area, (n * outputs + o + 1) * area);
      for (let o = 0; o < outputs; o += 2) { // two filters and four entries at a time: sums are read and written less often
        const to = (n * outputs + o) * area, own = o * entries, two = o + 1 < outputs, next = two ? own + entries : own;
        const after = two ? to + area : to;
        let e = 0;
        for (; two && e < whole; e += 4) {
          const p = weights[own + e], q = weights[own + e + 1], r = weights[own + e + 2], s = weights[own + e + 3];
          const t = weights[next + e], u = weights[next + e + 1], v = weights[next + e + 2], z = weights[next + e + 3];
          const at = e * area, second = at + area, third = second + area, fourth = third + area;
          for (let k = 0; k < area; k++) {
            const a = seen[at + k], c = seen[second + k], d = seen[third + k], f = seen[fourth + k];
            data[to + k] += p * a + q * c + r * d + s * f;
            data[after + k] += t * a + u * c + v * d + z * f;
          }
        }
        for (; e < entries; e++)
          for (let k = 0; k < area; k++) {
            data[to + k] += weights[own + e] * seen[e * area + k];
            if (two) data[after + k] += weights[next + e] * seen[e * area + k];
          }
      }
    }
    return { dims: [batch, outputs, rows, columns], data };
  }

  function convTranspose([x, w, b], attributes) {
    plain(attributes);
    const [batch, inputs, height, width] = x.dims, [, outputs, kh, kw] = w.dims;
    const { strides: [sy, sx] = [1, 1], pads: [top, left, bottom, right] = [0, 0, 0, 0] } = attributes;
    const { output_padding: [ey, ex] = [0, 0] } = attributes;
    const rows = (height - 1) * sy + kh - top - bottom + ey, columns = (width - 1) * sx + kw - left - right + ex;
    const data = new Float64Array(batch * outputs * rows * columns);
    for (let n = 0; n < batch; n++)
      for (let o = 0; o < outputs; o++) {
        const to = (n * outputs + o) * rows * columns;
        data.fill(b === undefined ? 0 : b.data[o], to, to + rows * columns);
        for (let c = 0; c < inputs; c++) {
          const from = (n * inputs + c) * height * width;
          for (let i = 0; i < kh; i++)
            for (let j = 0; j < kw; j++) {
              const weight = w.data[((c * outputs + o) * kh + i) * kw + j];
              for (let y = 0; y < height; y++) {
                const r = y * sy + i - top;
                if (r < 0 || r >= rows) continue;
                for (let k = 0; k < width; k++) {
                  const at = k * sx + j - left;
                  if (at >= 0 && at < columns) data[to + r * columns + at] += weight * x.data[from + y * width + k];
                }
              }
            }
        }
      }
    return { dims: [batch, outputs, rows, columns], data };
  }

  // Channels to pixels of a block, rows first; of every channel that stays its own.
  function depthToSpace([x], { blocksize: side, mode = "DCR" }) {
    if (mode !== "CRD") throw new Error(`DepthToSpace with mode ${mode} is not evaluated`);
    const [batch, depth, height, width] = x.dims, channels = depth / side ** 2, data = new Float64Array(x.data.length);
    for (let n = 0, from = 0; n < batch; n++)
      for (let c = 0; c < channels; c++)
        for (let i = 0; i < side; i++)
          for (let j = 0; j < side; j++)
            for (let r = 0; r < height; r++)
              for (let k = 0; k < width; k++, from++)
                data[((n * channels + c) * height * side + r * side + i) * width * side + k * side + j] = x.data[from];
    return { dims: [batch, channels, height * side, width * side], data };
  }

  const operations = {
    Add: pairwise((a, b) => a + b),
    Clip: ([x, low, high]) => {
      const least = low === undefined ? -Infinity : low.data[0], most = high === undefined ? Infinity : high.data[0];
      return { dims: x.dims, data: x.data.map((v) => Math.min(Math.max(v, least), most)) };
    },
    Concat: concat,
    Conv: conv,
    ConvTranspose: convTranspose,
    DepthToSpace: depthToSpace,
    Div: pairwise((a, b) => a / b),
    Exp: each(Math.exp),
    Expand: ([x, shape]) => pairwise((a) => a)([x, { dims: shape.data, data: new Float64Array(size(shape.data)) }]),
    Gather: gather,
    Gemm: gemm,
    Identity: ([x]) => x,
    LayerNormalization: layerNormalization,
    Mul: pairwise((a, b) => a * b),
    ReduceMean: reduceMean,
    Relu: each((x) => Math.max(x, 0)),
    Reshape: reshape,
    Sigmoid: each(sigmoid),
    Slice: slice,
    Split: split,
    Squeeze: ([x, axes]) => {
      const gone = axes.data.map((axis) => along(axis, x.dims));
      return { dims: x.dims.filter((_, i) => !gone.includes(i)), data: x.data };
    },
    Sub: pairwise((a, b) => a - b),
    Tanh: each(Math.tanh),
    Unsqueeze: ([x, axes]) => {
      const rank = x.dims.length + axes.data.length, dims = Array(rank).fill(0), rest = [...x.dims];
      for (const axis of axes.data) dims[axis < 0 ? axis + rank : axis] = 1;
      return { dims: dims.map((n) => n || rest.shift()), data: x.data };
    },
  };

  // ---------------------------------------------------------------- a graph

  // Read a file; `run({name: {dims, data}})` gives the outputs by name. Raises where an operation is not known.
  function load(bytes) {
    const graph = fields(one(fields(bytes), 7)), known = {};
    for (const part of all(graph, 5)) {
      const { name, dims, data } = tensor(part);
      known[name] = { dims, data };
    }
    const nodes = all(graph, 1).map((part) => {
      const message = fields(part), operation = text(one(message, 4));
      if (!operations[operation]) throw new Error(`the operation ${operation} is not evaluated`);
      const attributes = Object.fromEntries(all(message, 5).map(attribute).filter(([, value]) => value !== null));
      return { operation, inputs: all(message, 1).map(text), outputs: all(message, 2).map(text), attributes };
    });
    const names = (number) => all(graph, number).map((part) => text(one(fields(part), 1)));
    const inputs = names(11), outputs = names(12);
    function run(given) {
      const values = { ...known };
      for (const name of inputs) {
        if (!given[name]) throw new Error(`no input ${name}`);
        values[name] = given[name];
      }
      for (const { operation, inputs: wanted, outputs: made, attributes } of nodes) {
        const found = operations[operation](wanted.map((name) => values[name]), attributes);
        (Array.isArray(found) ? found : [found]).forEach((part, i) => { values[made[i]] = part; });
      }
      return Object.fromEntries(outputs.map((name) => [name, values[name]]));
    }
    return { inputs, outputs, run };
  }

  return { load, operations: Object.keys(operations) };
})();
