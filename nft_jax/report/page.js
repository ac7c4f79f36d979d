// All of the page but the answers, from the JSON in #data.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const seconds = value => value >= 5400 ? `${(value / 3600).toFixed(1)} h`
  : value >= 90 ? `${(value / 60).toFixed(1)} min` : `${value.toFixed(0)} s`;
// Of a phase: two digits tell enough.
const duration = value => value >= 90 ? seconds(value) : value >= 0.1 || !value ? `${Number(value.toPrecision(2))} s`
  : `${Number((1000 * value).toPrecision(2))} ms`;
const whole = value => value.toLocaleString("en");
const spoken = name => name.replaceAll("_", " ");
const OUTCOME = name => `var(--${name})`;
const groupOf = data.runs.map((_, run) => data.groups.findIndex(({runs}) => runs.includes(run)));      // of each run

const groupColour = group => `var(--c${group})`;
const groupDash = group => DASHES[data.groups[group].dash];
const mark = group => swatch(groupColour(group), groupDash(group));

// ---- runs and configuration ----

// A table whose rows become cards on a narrow screen, where each cell says its column. The roles keep it a table.
function fillTable(table, heads, rows) {
  const row = cells => element("tr", {role: "row"}, ...cells);
  const head = heads.map(([name, kind]) => element("th", {role: "columnheader", scope: "col", class: kind ?? ""},
    ...[name].flat()));
  const body = rows.map(cells => row(cells.map((cell, i) => element(i ? "td" : "th", {
    role: i ? "cell" : "rowheader", class: heads[i][1] ?? "", ...i ? {"data-label": (heads[i][2] ?? heads[i][0]).replace(BREAKS, "$1\u200b")}
      : {scope: "row"}}, ...[cell].flat()))));
  table.setAttribute("role", "table");
  table.append(element("thead", {role: "rowgroup"}, row(head)), element("tbody", {role: "rowgroup"}, ...body));
  return table;
}

function drawRuns() {
  const evaluated = data.runs.some(run => run.after !== null);
  const heads = [["run"], ...evaluated ? [["held-out before", "number", "before"], ["after", "number after"],
    ["change", "number", "change"]] : [], ["seed", "number"], ["step", "number"], ["state"], ["time", "number"],
    ["tokens generated", "number", "tokens"]];
  const change = ({before, after}) => before === null || after === null ? "–"
    : `${after < before ? "−" : "+"}${(100 * Math.abs(after - before)).toFixed(1)}`;
  const rows = data.groups.flatMap(({name, runs}, group) => runs.map(index => {
    const run = data.runs[index], [seed, order] = run.seed;
    return [[mark(group), element("b", {}, run.name), ...data.groups.length > 1 && name !== run.name
      ? [element("span", {class: "of"}, name)] : []],
      ...evaluated ? [number(run.before, true), number(run.after, true), change(run)] : [],
      seed === order ? `${seed}` : `${seed}, data ${order}`,
      run.step === run.steps ? `${run.step}` : `${run.step} of ${run.steps ?? "?"}`, run.status, seconds(run.seconds),
      whole(run.tokens)];
  }));
  fillTable(byId("runs").querySelector("table"), heads, rows);
  const commands = data.runs.filter(run => run.command);
  if (commands.length) byId("runs").append(element("details", {}, element("summary", {}, "Commands"),
    ...commands.map(run => element("p", {class: "command"}, `${run.name}: ${run.command}`))));
  byId("runs").append(...data.runs.filter(run => run.stored).map(run => element("p", {class: "note"},
    `${run.name}: ${run.stored}.`)));
  const sources = new Map(data.runs.filter(run => run.objective).map(run => [run.objective, run.name]));
  for (const [source, name] of sources) byId("runs").append(element("details", {},
    element("summary", {}, `The objective of ${name}`), element("pre", {class: "source"}, source)));
}

const shown = value => value === null ? "–" : breakable(typeof value === "string" ? value : JSON.stringify(value));
const MOST_BESIDE = 4;                    // groups that are columns of a table; more are rows

function drawConfiguration() {
  const section = byId("configuration");
  const table = (heads, rows) => element("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "Settings"},
    fillTable(element("table", {class: "cards"}), heads, rows));
  const field = name => element("code", {}, ...breakable(name));
  const beside = names => {
    const fields = data.fields.filter(([name]) => names.includes(name));
    return data.groups.length <= MOST_BESIDE
      ? table([["field"], ...data.groups.map(({name}, i) => [[mark(i), name], "value", name])],
        fields.map(([name, values]) => [field(name), ...values.map(shown)]))
      : table([["group"], ...fields.map(([name]) => [field(name), "value", name])],
        data.groups.map(({name}, i) => [[mark(i), name], ...fields.map(([, values]) => shown(values[i]))]));
  };
  const fold = (told, content) => section.append(element("details", {}, element("summary", {}, told), content));
  if (data.groups.length > 1) {
    section.append(element("p", {class: "note"}, data.different.length
      ? "What differs between the groups. (Runs without labels that differ in their seed only are one group.)"
      : "The groups have the same settings, seeds and speed aside."));
    if (data.different.length) section.append(beside(data.different));
    if (data.partly.length) fold(`${data.partly.length} settings that only some of the objectives read`,
      beside(data.partly));
  }
  const same = data.fields.filter(([name]) => !data.different.includes(name) && !data.partly.includes(name));
  fold(data.groups.length > 1 ? `The ${same.length} fields that are the same` : `All ${same.length} fields`,
    table([["field"], ["value", "value"]], same.map(([name, values]) => [field(name), shown(values[0])])));
}

// ---- curves ----

const PANELS = [
  ["evaluation/accuracy/all", "Accuracy on held-out questions", "share"],
  ["accuracy/all", "Accuracy of training answers", "share"],
  ["groups/accepted_share", "Groups with right and wrong answers", "share"],
  ["entropy/all", "Entropy", "nats per token"],
  ["grad_norm/mean", "Gradient norm", ""], ["mismatch/mean", "Sampler against trainer", "nats per token"],
  ["mismatch/experts", "Experts that the trainer does not choose", "share"],
  ["ratio/effective_sample_size", "Effective sample size", "share"],
  ["share/clamped", "Wrong tokens at NFT's clamp", "share"],
  ["length/all", "Length of answers", "tokens"], ["length/right", "Length of right answers", "tokens"],
  ["length/wrong", "Length of wrong answers", "tokens"], ["truncated_share", "Truncated answers", "share"],
];

const linesOf = key => data.groups.map(({name}, i) => (
  {name, colour: groupColour(i), dash: groupDash(i), values: data.series[i][key]})).filter(({values}) => values);

const OWN = "objective/";                 // begins the names of the metrics of an objective of one's own

function drawCurves() {
  const steps = data.series.flatMap(metrics => Object.values(metrics).flatMap(([at]) => [at[0], at.at(-1)]));
  const span = [Math.min(...steps), Math.max(...steps)];           // of all charts
  const section = byId("curves"), legend = section.querySelector(".legend"), charts = section.querySelector(".charts");
  if (data.groups.length > 1) legend.append(...data.groups.map(({name, runs}, i) => element("span", {},
    mark(i), name + (runs.length > 1 ? ` (${runs.length} runs)` : ""))));
  legend.hidden = data.groups.length === 1;
  if (data.groups.some(({runs}) => runs.length > 1))
    legend.append(element("p", {class: "note"}, "Line: mean over the runs. Band: smallest to largest."));
  for (const [key, title, unit] of PANELS) {
    const lines = linesOf(key);
    if (lines.some(({values}) => values[1].some(Boolean))) charts.append(lineChart(title, unit, lines, span));
  }
  const known = new Set(PANELS.map(([key]) => key)), select = byId("metric");
  const others = [...new Set(data.series.flatMap(Object.keys))].filter(key => !known.has(key)).sort();
  const own = others.filter(key => key.startsWith(OWN)), keys = others.filter(key => !own.includes(key));
  if (own.length) charts.after(element("h3", {}, "Metrics of the objectives' own"), element("div",
    {class: "charts", id: "own"}, ...own.map(key => lineChart(key.slice(OWN.length), "", linesOf(key), span))));
  select.append(...keys.map(key => element("option", {}, key)));
  const draw = () => byId("other").replaceChildren(
    ...keys.length ? [lineChart(select.value, "", linesOf(select.value), span)] : []);
  select.value = keys.includes("loss/total") ? "loss/total" : keys[0];
  select.addEventListener("change", draw);
  draw();
  if (!charts.children.length) charts.append(element("p", {class: "note"}, "No metrics yet."));
}

// Columns of one or more neighbouring steps, and their numbers added up.
function merged(steps, values, most = 60) {
  const size = Math.ceil(steps.length / most), columns = [], sums = [];
  for (let i = 0; i < steps.length; i += size) {
    columns.push([steps[i], steps[Math.min(i + size, steps.length) - 1]]);
    sums.push(values.slice(i, i + size).reduce((a, b) => a + b, 0));
  }
  return [columns, sums];
}

function drawVerdicts() {
  const charts = byId("verdicts").querySelector(".charts"), outcomes = data.rollouts.outcomes, seen = new Set();
  data.groups.forEach(({name}, i) => {
    const all = data.series[i]["verdicts/right"];
    if (!all) return;
    let columns;
    const parts = outcomes.filter(outcome => data.series[i][`verdicts/${outcome}`]).map(outcome => {
      const [steps, means] = data.series[i][`verdicts/${outcome}`];
      const at = new Map(steps.map((step, place) => [step, means[place]]));
      const [spans, values] = merged(all[0], all[0].map(step => at.get(step) ?? 0));
      columns = spans;
      if (values.some(Boolean)) seen.add(outcome);
      return {name: spoken(outcome), colour: OUTCOME(outcome), values};
    });
    charts.append(stackChart(name, columns, parts));
  });
  charts.before(element("div", {class: "key"}, ...outcomes.filter(outcome => seen.has(outcome)).map(outcome =>
    element("span", {}, box(OUTCOME(outcome)), spoken(outcome)))));
  const heat = data.groups.flatMap(({name}, i) =>
    data.histograms[i] ? [heatChart(name, groupColour(i), data.bins, data.histograms[i])] : []);
  byId("histograms").append(...heat.length ? heat : [element("p", {class: "note"}, "No answers were kept.")]);
}

function drawTime() {
  const names = [...new Set(data.phases.flatMap(Object.keys))].filter(name => name !== "step");
  const most = Math.max(...data.phases.flatMap(Object.values), 1e-9);
  const bar = (value, i) => element("div", {class: "bar"}, styled(element("i"), {background: groupColour(i),
    width: `${72 * value / most}%`}), duration(value));
  const total = name => Math.max(...data.phases.map(phase => phase[name] ?? 0));
  names.sort((a, b) => total(b) - total(a));
  const table = byId("time").querySelector("table");
  if (data.groups.length > 1) table.parentElement.before(element("div", {class: "key"}, ...data.groups.map(({name}, i) =>
    element("span", {}, box(groupColour(i)), name))));
  table.append(element("tbody", {}, ...["step", ...names].map(name => element("tr", {},
    element("th", {scope: "row"}, name === "step" ? "whole step" : name),
    element("td", {}, ...data.phases.map((phase, i) => name in phase ? bar(phase[name], i) : ""))))));
}

