// Which sizes a model draws, offered as shapes.

const SHAPES = [[1, 1], [4, 3], [3, 4], [3, 2], [2, 3], [16, 9], [9, 16]];

// [width, height, name] of each shape: the model's own sizes, or as many pixels as it usually draws, in other shapes.
export function sizes(one) {
  const { width, height } = one.defaults;
  if (one.limits.sizes.length) return one.limits.sizes.map(([w, t]) => [w, t, ratio(w, t)]);
  const area = width * height;
  return SHAPES.map(([w, t]) => {
    const wide = rounded(one, Math.sqrt((area * w) / t));
    return w * height === t * width ? [width, height, `${w}:${t}`] : [wide, rounded(one, (wide * t) / w), `${w}:${t}`];
  });
}

function rounded(one, value) {
  const { min, max, multiple_of: step } = one.limits;
  const grid = step > 1 ? step : 8;
  return Math.min(max, Math.max(min, Math.round((value || min) / grid) * grid));
}

export function allowed(one, width, height) {
  const { min, max, multiple_of: step, sizes: fixed } = one.limits;
  if (fixed.length) return fixed.some(([w, t]) => w === width && t === height);
  return [width, height].every((side) => side >= min && side <= max && side % step === 0);
}

// What all of these draw: a size that one of them refuses would refuse the whole comparison.
export function together(models) {
  const limits = models.map((one) => one.limits);
  const fixed = models.filter((one) => one.limits.sizes.length);
  const common = fixed.length ? fixed[0].limits.sizes.filter(([w, t]) => models.every((one) => allowed(one, w, t))) : [];
  const all = { min: Math.max(...limits.map((one) => one.min)), max: Math.min(...limits.map((one) => one.max)), multiple_of: limits.map((one) => one.multiple_of).reduce(multiple), sizes: common };
  const least = models.reduce((a, b) => (a.defaults.width * a.defaults.height <= b.defaults.width * b.defaults.height ? a : b));
  return (fixed.length && !common.length) || all.min > all.max ? null : { defaults: least.defaults, limits: all };
}

function ratio(width, height) {
  const [w, t] = SHAPES.find(([a, b]) => Math.abs(a / b - width / height) < 0.02) || [];
  return w ? `${w}:${t}` : width > height ? "wide" : "tall";
}

const divisor = (a, b) => (b ? divisor(b, a % b) : a);
const multiple = (a, b) => (a * b) / divisor(a, b);
