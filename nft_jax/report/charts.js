"use strict";
// Small charts as inline SVG. All text goes in as text nodes: what a model wrote is never read as markup.

const filled = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const element = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
const drawn = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const styled = (node, properties) => {
  for (const [name, value] of Object.entries(properties)) node.style.setProperty(name, value);
  return node;
};

const number = (value, share = false) => {
  if (value === null || value === undefined) return "–";
  if (share) return `${(100 * value).toFixed(1)}%`;
  const size = Math.abs(value);
  if (size >= 1000) return value.toLocaleString("en", {maximumFractionDigits: size < 1e5 ? 1 : 0});
  return size && size < 1e-3 ? String(Number(value.toPrecision(3))) : String(Number(value.toPrecision(4)));
};
// Where a line may break: behind the signs between names, and not within a file's name or a number.
const BREAKS = /([/,=:])(?=\D)/g;
const breakable = text => text.replace(BREAKS, "$1\0").split("\0").flatMap((word, i) =>
  i ? [element("wbr"), word] : [word]);
const DASHES = ["none", "6 3", "2 3"];

const WIDTH = 390, HEIGHT = 215, LEFT = 46, RIGHT = 10, TOP = 8, BOTTOM = 34;
const part = (value, low, high) => high > low ? (value - low) / (high - low) : 0.5;
const across = (value, low, high) => LEFT + (WIDTH - LEFT - RIGHT) * part(value, low, high);
const up = (value, low, high) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part(value, low, high);

// Round numbers from at most `low` to at least `high`.
function ticks(low, high, wanted, whole = false) {
  const rough = Math.max((high - low) / wanted, 1e-12), power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map(times => times * power).find(size => size >= rough * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({length: last - first + 1}, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

// An SVG with axes. `columns`: x of the places that pointer and arrow keys reach. `tell(i)`: lines of the tooltip, a
// heading and then [mark, name, value, more]. The value is never cut: a long name wraps.
function frame(title, unit, summary, columns, tell) {
  const svg = drawn("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": summary, tabindex: 0});
  const tooltip = element("div", {class: "tooltip", role: "status"});
  const cursor = drawn("line", {class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM});
  let at = columns.length - 1;
  const hide = () => { tooltip.hidden = true; cursor.remove(); };
  const show = place => {
    at = Math.min(Math.max(place, 0), columns.length - 1);
    const [heading, ...lines] = tell(at);
    tooltip.replaceChildren(element("b", {}, heading), ...lines.map(([mark, name, value, more]) => element("div", {},
      element("span", {}, mark), element("span", {}, name, " "), element("strong", {}, value),
      ...more ? [element("small", {}, ` (${more})`)] : [])));
    tooltip.hidden = false;
    cursor.setAttribute("x1", columns[at]);
    cursor.setAttribute("x2", columns[at]);
    svg.append(cursor);
    const scale = svg.clientWidth / WIDTH, x = columns[at] * scale;
    // Beside the cursor; on its other side, or at the edge, where there is no room.
    styled(tooltip, {left: 0});
    const wide = tooltip.offsetWidth, left = x + wide + 10 <= svg.clientWidth ? x + 10 : Math.max(x - wide - 10, 0);
    styled(tooltip, {left: `${Math.max(0, Math.min(left, svg.clientWidth - wide))}px`});
  };
  const plot = element("div", {class: "plot"}, tooltip);
  plot.prepend(svg);
  const caption = element("figcaption", {}, title, element("span", {}, unit ? ` (${unit})` : ""));
  const figure = element("figure", {}, caption, plot);
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * WIDTH / box.width;
    show(columns.reduce((best, value, i) => Math.abs(value - x) < Math.abs(columns[best] - x) ? i : best, 0));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(at); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", event => {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (move) { show(at + move); event.preventDefault(); }
    if (event.key === "Escape") hide();
  });
  hide();
  return [figure, svg];
}

// `marks`: [x, step] of the labels below; `ys`: the values at the left.
function axes(svg, marks, ys, share) {
  const [low, high] = [ys[0], ys[ys.length - 1]];
  for (const value of ys) {
    const y = up(value, low, high), name = share ? `${Number((100 * value).toPrecision(6))}%` : number(value);
    svg.append(drawn("line", {class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y}),
      drawn("text", {x: LEFT - 6, y: y + 4, "text-anchor": "end"}, name));
  }
  for (const [x, step] of marks)
    svg.append(drawn("text", {x, y: HEIGHT - BOTTOM + 15, "text-anchor": "middle"}, step));
  svg.append(drawn("line", {class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM}),
    drawn("text", {x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle"}, "step"));
}

// `lines`: {name, colour, dash, values: [steps, means] or [steps, means, smallest, largest, runs]}. `whole`: the first
// and the last step of the axis, if they are not those of the lines.
function lineChart(title, unit, lines, whole) {
  const share = unit === "share", all = lines.flatMap(({values}) => values.slice(1, 4).flat());
  const steps = [...new Set(lines.flatMap(({values}) => values[0]))].sort((a, b) => a - b);
  let low = all.reduce((a, b) => Math.min(a, b)), high = all.reduce((a, b) => Math.max(a, b));
  // From 0, and at least 10 points of a share: what changes little looks as if it changes little.
  if (low >= 0) low = 0;
  if (share && low === 0) high = Math.max(high, 0.1);
  if (low === high) [low, high] = low ? [low - Math.abs(low) / 10, low + Math.abs(low) / 10] : [0, 1];
  const ys = ticks(low, high, 4), range = [ys[0], ys[ys.length - 1]], span = whole ?? [steps[0], steps.at(-1)];
  const point = (x, y) => `${across(x, ...span).toFixed(1)},${up(y, ...range).toFixed(1)}`;
  const tell = i => [`step ${steps[i]}`, ...lines.map(({name, colour, dash, values}) => {
    const place = values[0].indexOf(steps[i]), at = row => number(values[row][place], share);
    const runs = place >= 0 && values[4] ? values[4][place] : 1;
    return [swatch(colour, dash), lines.length > 1 ? name : "", place < 0 ? "–" : at(1),
      runs > 1 ? `${at(2)} to ${at(3)}, ${runs} runs` : ""];
  })];
  const summary = `${title}. ` + lines.map(({name, values: [x, y]}) =>
    `${name}: ${number(y[0], share)} at step ${x[0]}, ${number(y.at(-1), share)} at step ${x.at(-1)}`).join("; ");
  const [figure, svg] = frame(title, share ? "" : unit, summary, steps.map(step => across(step, ...span)), tell);
  const marks = ticks(...span, 5, true).filter(step => step >= span[0] && step <= span[1]);
  axes(svg, marks.map(step => [across(step, ...span), step]), ys, share);
  for (const {values: [x, , least, most], colour} of lines.filter(({values}) => values[2]))
    svg.append(styled(drawn("path", {class: "band", d: `M${x.map((step, i) => point(step, most[i])).join("L")}L${
      x.map((step, i) => point(step, least[i])).reverse().join("L")}Z`}), {fill: colour}));
  for (const {values: [x, y], colour, dash} of lines) {
    svg.append(styled(drawn("path", {class: "curve", d: `M${x.map((step, i) => point(step, y[i])).join("L")}`}),
      {stroke: colour, "stroke-dasharray": dash}));
    if (x.length <= 20)
      for (const [i, step] of x.entries())
        svg.append(styled(drawn("circle", {cx: across(step, ...span), cy: up(y[i], ...range), r: 2.5}),
          {fill: colour}));
  }
  return figure;
}

const swatch = (colour, dash = "none") => styled(element("span", {class: "swatch"}),
  {"border-color": colour, "border-top-style": {none: "solid", "6 3": "dashed"}[dash] ?? "dotted"});
const box = colour => styled(element("span", {class: "box"}), {background: colour});

// Shares of each column's whole, stacked. `parts`: {name, colour, values: one number for each column}.
function stackChart(title, columns, parts) {
  const totals = columns.map((_, i) => parts.reduce((sum, {values}) => sum + values[i], 0));
  const width = (WIDTH - LEFT - RIGHT) / columns.length, centres = columns.map((_, i) => LEFT + width * (i + 0.5));
  const tell = i => [columnName(columns[i]), ...parts.filter(({values}) => values[i]).map(({name, colour, values}) =>
    [box(colour), name, number(values[i] / totals[i], true), number(values[i])])];
  const last = columns.length - 1;
  const summary = `${title}. Last: ` + parts.filter(({values}) => values[last]).map(({name, values}) =>
    `${name} ${number(values[last] / totals[last], true)}`).join(", ");
  const [figure, svg] = frame(title, "share of the answers", summary, centres, tell);
  axes(svg, columnMarks(columns, centres), [0, 0.25, 0.5, 0.75, 1], true);
  columns.forEach((_, i) => {
    let below = 0;
    for (const {colour, values} of parts) {
      const height = totals[i] ? values[i] / totals[i] : 0;
      if (height) svg.append(styled(drawn("rect", {x: LEFT + width * i, width: width * 0.9, y: up(below + height, 0, 1),
        height: up(below, 0, 1) - up(below + height, 0, 1)}), {fill: colour}));
      below += height;
    }
  });
  return figure;
}
// The first step of about six columns.
const columnMarks = (columns, centres) => centres.map((x, i) => [x, columns[i][0]])
  .filter((_, i) => i % Math.ceil(columns.length / 6) === 0);
const columnName = ([first, last]) => first === last ? `step ${first}` : `steps ${first} to ${last}`;

// Counts in `bins` for each column: the fuller, the deeper the colour.
function heatChart(title, colour, bins, {columns, counts}) {
  const totals = counts.map(column => column.reduce((a, b) => a + b, 0));
  const width = (WIDTH - LEFT - RIGHT) / columns.length, height = (HEIGHT - TOP - BOTTOM) / bins.length;
  const centres = columns.map((_, i) => LEFT + width * (i + 0.5));
  const tell = i => [`${columnName(columns[i])}: ${number(totals[i])} groups`, ...bins.map((name, bin) =>
    ["", name, number(counts[i][bin])]).filter((_, bin) => counts[i][bin]).reverse()];
  const [first, last] = [counts[0], counts.at(-1)].map(column =>
    number(1 - (column[0] + column.at(-1)) / Math.max(column.reduce((a, b) => a + b, 0), 1), true));
  const summary = `${title}. Groups with right and wrong answers: ${first} at first, ${last} at last`;
  const [figure, svg] = frame(title, "", summary, centres, tell);
  axes(svg, columnMarks(columns, centres), [], false);
  bins.forEach((name, bin) => {
    const y = HEIGHT - BOTTOM - height * (bin + 1);
    if (bin === 0 || bin === bins.length - 1 || bin === 4)
      svg.append(drawn("text", {x: LEFT - 6, y: bin === 4 ? y + 4 : y + height / 2 + 4, "text-anchor": "end"},
        bin === 4 ? "0.5" : name));
    columns.forEach((_, i) => {
      const share = totals[i] ? counts[i][bin] / totals[i] : 0;
      const depth = share ? 0.12 + 0.88 * Math.min(1, share * 2) : 0.5;
      svg.append(styled(drawn("rect", {x: LEFT + width * i, width: width * 0.96, y, height: height * 0.94}),
        {fill: share ? colour : "var(--grid)", "fill-opacity": depth}));
    });
  });
  return figure;
}
