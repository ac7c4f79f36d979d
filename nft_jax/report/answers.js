// The answers: filtered, searched, and drawn as the reader comes to them.

const {rows, problems, outcomes, nats} = data.rollouts;
const [RUN, STEP, PROBLEM, SAMPLE, VERDICT, REWARD, EXTRACTED, REASON, ACCURACY, KEPT, TRUNCATED, COUNT, TEXT, LENGTHS,
  LOGPROBS, ENTROPIES, COEFFICIENTS] = Array.from({length: 17}, (_, place) => place);
// Base64 of 16-bit integers -> the integers. Each string is read once.
const read = new Map();
const unpack = text => {
  if (!read.has(text)) read.set(text, new Int16Array(Uint8Array.from(atob(text), byte => byte.charCodeAt(0)).buffer));
  return read.get(text);
};
const FIRST = 20, LONGEST = 600;         // answers drawn at a time; tokens of an answer shown at first
const MODES = {coefficient: COEFFICIENTS, "log-prob": LOGPROBS, entropy: ENTROPIES, nothing: null};
const MARKS = {right: "✓", wrong: "✗", copied: "⧉", no_answer: "∅", timeout: "⏱", too_large: "⤢", error: "!"};
let mode = "nothing", chosen = [], drawnRows = 0;

const coefficient = (packed, i) => packed === null ? null
  : packed.length === 1 ? packed[0] : packed[0] * unpack(packed[1])[i];
// The largest coefficient of each group of runs: objectives have scales of their own.
const strongest = data.groups.map(() => 0);
for (const {[RUN]: run, [COEFFICIENTS]: packed} of rows)
  if (packed !== null) strongest[groupOf[run]] = Math.max(strongest[groupOf[run]],
    packed.length === 1 ? Math.abs(packed[0]) : packed[0] * 32767);

function tokensOf(row) {
  let end = 0;
  return [...unpack(row[LENGTHS])].map(length => row[TEXT].slice(end, end += length));
}

// Which colour, and how much of it (0 to 1).
function tint(row, i) {
  const value = mode === "nothing" || row[MODES[mode]] === null ? null
    : mode === "coefficient" ? coefficient(row[COEFFICIENTS], i) : unpack(row[MODES[mode]])[i] * nats;
  if (value === null) return ["surprise", 0];
  if (mode === "coefficient") return [value < 0 ? "down" : "up", Math.abs(value) / (strongest[groupOf[row[RUN]]] || 1)];
  return mode === "log-prob" ? ["surprise", Math.min(1, value / 5)] : ["spread", Math.min(1, value / 2.5)];
}

const SCALES = {
  coefficient: () => "Blue: pushed up; orange: pushed down; full colour at " + data.groups.flatMap(({name}, i) =>
    strongest[i] ? [number(strongest[i]) + (data.groups.length > 1 ? ` (${name})` : "")] : []).join(", ")
    + ". This is the objective's coefficient of the token at the first optimizer step on the answer, where the policy "
    + "is still the one that sampled it (ratio 1), without loss_agg and added terms; what it became in later steps the "
    + "answers do not tell. No colour: not trained on, as all rewards of the group were equal, or not in this step.",
  "log-prob": () => "The deeper, the less likely the token was when it was sampled: full colour at −5 (0.7%).",
  entropy: () => "The deeper, the less certain the policy was of the token: full colour at 2.5 nats.",
  nothing: () => "",
};

function colourTokens(holder, row) {
  [...holder.querySelectorAll("span")].forEach((span, i) => {
    const [hue, strength] = tint(row, i);
    styled(span, {"--hue": `var(--${hue})`, "--strength": (0.6 * strength).toFixed(3)});
  });
}

function tokenText(row, i, text) {
  const nat = packed => packed === null ? null : unpack(packed)[i] * nats;
  const surprise = nat(row[LOGPROBS]), entropy = nat(row[ENTROPIES]);
  const pushed = coefficient(row[COEFFICIENTS], i);
  return [`token ${i + 1}: ${JSON.stringify(text)}`,
    surprise === null ? null : `log-prob ${number(-surprise)} (${number(Math.exp(-surprise), true)})`,
    entropy === null ? null : `entropy ${number(entropy)}`,
    pushed === null ? null : `coefficient ${number(pushed)}`].filter(Boolean).join(" · ");
}

function tell(span) {
  const tip = byId("tip"), holder = span.parentElement;
  for (const other of holder.querySelectorAll(".at")) other.classList.remove("at");
  span.classList.add("at");
  tip.textContent = holder.describe(span);
  tip.hidden = false;
  const at = span.getBoundingClientRect();
  styled(tip, {left: `${Math.max(0, Math.min(at.left + scrollX, innerWidth - tip.offsetWidth - 12))}px`,
    top: `${at.bottom + scrollY + 4}px`});
}

function hush() {
  byId("tip").hidden = true;
  for (const other of document.querySelectorAll(".tokens .at")) other.classList.remove("at");
}

function answerTokens(row) {
  if (row[LENGTHS] === null) return element("p", {class: "tokens", dir: "auto"}, row[TEXT]);
  const parts = tokensOf(row), holder = element("p", {class: "tokens", dir: "auto", tabindex: 0, role: "group",
    "aria-label": `Answer of ${parts.length} tokens; the arrow keys read them one by one`});
  const span = text => element("span", text.includes("\n") ? {class: "line"} : {}, text);
  const fill = count => {
    holder.replaceChildren(...parts.slice(0, count).map(span));
    if (count < parts.length) {
      const button = element("button", {type: "button"}, `Show all ${parts.length} tokens`);
      button.addEventListener("click", () => { fill(parts.length); holder.focus(); });
      holder.append(button);
    }
    colourTokens(holder, row);
  };
  holder.describe = one => {
    const i = [...holder.querySelectorAll("span")].indexOf(one);
    return tokenText(row, i, parts[i]);
  };
  holder.recolour = () => colourTokens(holder, row);
  fill(parts.length > LONGEST * 1.2 ? LONGEST : parts.length);
  return holder;
}

function answer(row) {
  const [problem, gold] = problems[row[PROBLEM]], outcome = row[VERDICT];
  const facts = [
    `step ${row[STEP]}`, data.runs.length > 1 && data.runs[row[RUN]].name,
    row[SAMPLE] !== null && `answer ${row[SAMPLE] + 1}`, row[COUNT] && `${row[COUNT]} tokens`,
    row[TRUNCATED] && "truncated", row[REWARD] > 0 && row[REWARD] < 1 && `reward ${number(row[REWARD])}`,
    row[ACCURACY] !== null && `group accuracy ${number(row[ACCURACY], true)}`, row[KEPT] === false && "not trained on"];
  const foot = element("p", {class: "foot"}, element("span", {}, "gold "), element("bdi", {}, gold ?? "–"),
    ...row[EXTRACTED] === null ? [] : [element("span", {}, " · read "), element("bdi", {}, row[EXTRACTED])],
    ...row[REASON] ? [element("span", {}, " · "), element("bdi", {}, row[REASON])] : []);
  const card = element("article", {class: "answer"}, element("p", {class: "head"},
    element("strong", {}, `${MARKS[outcome] ?? "?"} ${spoken(outcome ?? "not judged")}`),
    ...facts.filter(Boolean).map(fact => element("span", {}, fact))),
    element("p", {class: "problem", dir: "auto"}, problem ?? ""), answerTokens(row), foot);
  return styled(card, {"--of": OUTCOME(outcome in MARKS ? outcome : "error")});
}

function more(count = FIRST) {
  byId("list").append(...chosen.slice(drawnRows, drawnRows + count).map(i => answer(rows[i])));
  drawnRows = Math.min(drawnRows + count, chosen.length);
  byId("more").hidden = drawnRows >= chosen.length;
}

let searched = null;
function filter() {
  const value = name => document.querySelector(`input[name=${name}]:checked`)?.value;
  const words = byId("search").value.toLowerCase(), outcome = value("outcome");
  const run = byId("run").value, step = byId("step").value;
  if (words && searched === null)
    searched = rows.map(row => [...problems[row[PROBLEM]], row[TEXT]].join("\n").toLowerCase());
  chosen = [...rows.keys()].filter(i => {
    const row = rows[i];
    return (outcome === "all" || (outcome === "truncated" ? row[TRUNCATED] : row[VERDICT] === outcome))
      && (run === "" || row[RUN] === Number(run)) && (step === "" || row[STEP] === Number(step))
      && (!words || searched[i].includes(words));
  });
  byId("count").textContent = `${whole(chosen.length)} of ${whole(rows.length)} answers`;
  hush();
  byId("list").replaceChildren();
  drawnRows = 0;
  more();
}

function chips(name, values, checked) {
  byId(name).append(...values.map(([value, label, count]) => element("label", {class: "chip"},
    element("input", {type: "radio", name, value, ...value === checked ? {checked: ""} : {}}), label,
    ...count === undefined ? [] : [element("b", {}, ` ${whole(count)}`)])));
}

function setMode(name) {
  mode = name;
  byId("scale").textContent = SCALES[name]();
  for (const holder of document.querySelectorAll(".tokens")) holder.recolour?.();
}

function drawAnswers() {
  const {total, notes} = data.rollouts, sample = byId("sample");
  sample.textContent = rows.length === 0 ? "No answers are here."
    : rows.length === total ? `All ${whole(total)} answers.`
    : `${whole(rows.length)} of ${whole(total)} answers: as many from every step of every run, drawn at random, and `
      + "the same whenever this page is made.";
  sample.append(...notes.map(([run, note]) => element("span", {}, ` ${data.runs[run].name}: ${note}.`)));
  const count = test => rows.reduce((sum, row) => sum + (test(row) ? 1 : 0), 0);
  const judged = outcomes.map(name => [name, spoken(name), count(row => row[VERDICT] === name)]);
  const cut = ["truncated", "truncated", count(row => row[TRUNCATED])];
  chips("outcome", [["all", "all", rows.length], ...judged, cut], "all");
  const there = Object.keys(MODES).filter(name => MODES[name] === null || rows.some(row => row[MODES[name]] !== null));
  chips("colour", there.map(name => [name, name]), there[0]);
  const options = (id, values) => byId(id).append(element("option", {value: ""}, "all"),
    ...values.map(([value, label]) => element("option", {value}, label)));
  options("run", data.runs.map((run, i) => [i, run.name]));
  options("step", [...new Set(rows.map(row => row[STEP]))].sort((a, b) => a - b).map(step => [step, step]));
  byId("run").parentElement.hidden = data.runs.length < 2;
  setMode(there[0]);
  let waiting;
  byId("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  byId("filters").addEventListener("submit", event => { event.preventDefault(); filter(); });
  byId("filters").addEventListener("change", ({target}) => target.name === "colour" ? setMode(target.value) : filter());
  byId("more").addEventListener("click", () => more());
  new IntersectionObserver(entries => { if (entries.some(entry => entry.isIntersecting) && drawnRows) more(); },
    {rootMargin: "800px"}).observe(byId("more"));
  const list = byId("list");
  list.addEventListener("pointerover", event => event.target.matches(".tokens span") ? tell(event.target) : hush());
  list.addEventListener("pointerleave", hush);
  list.addEventListener("focusout", hush);
  list.addEventListener("keydown", event => {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key], holder = event.target;
    if (!move || !holder.describe) return;
    const spans = [...holder.querySelectorAll("span")], at = spans.findIndex(span => span.classList.contains("at"));
    tell(spans[Math.min(Math.max(at + move, 0), spans.length - 1)]);
    event.preventDefault();
  });
  filter();
}

drawRuns();
drawConfiguration();
drawCurves();
drawVerdicts();
drawTime();
drawAnswers();
document.documentElement.dataset.ready = "";
