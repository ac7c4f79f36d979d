// The answers, one by one or the K answers of a question side by side: filtered, searched, and drawn as the reader
// comes to them.

const {rows, problems, outcomes, nats, deepest} = data.rollouts;
const [RUN, STEP, PROBLEM, SAMPLE, VERDICT, REWARD, EXTRACTED, REASON, ACCURACY, KEPT, TRUNCATED, COUNT, TEXT, LENGTHS,
  LOGPROBS, ENTROPIES, COEFFICIENTS, PUSH, PROMPT] = Array.from({length: 19}, (_, place) => place);
// Base64 of 16-bit integers -> the integers. Each string is read once.
const read = new Map();
const unpack = text => {
  if (!read.has(text)) read.set(text, new Int16Array(Uint8Array.from(atob(text), byte => byte.charCodeAt(0)).buffer));
  return read.get(text);
};
// Cards drawn at a time, and tokens of an answer shown at first.
const FIRST = {groups: 4, answers: 20}, LONGEST = {groups: 160, answers: 600};
const MODES = {entropy: ENTROPIES, coefficient: COEFFICIENTS, "log-prob": LOGPROBS, nothing: null};
const MARKS = {right: "✓", wrong: "✗", copied: "⧉", no_answer: "∅", timeout: "⏱", too_large: "⤢", error: "!"};
let mode = "nothing", view = "groups", chosen = [], drawnCards = 0;

// The groups: indices of their rows, right answers first. The rows of a group stand together.
const groups = [];
for (const [i, row] of rows.entries()) {
  const last = groups.at(-1)?.[0];
  if (last !== undefined && [RUN, STEP, PROMPT].every(place => rows[last][place] === row[place])) groups.at(-1).push(i);
  else groups.push([i]);
}
for (const group of groups) group.sort((a, b) => (rows[b][REWARD] ?? -1) - (rows[a][REWARD] ?? -1) || a - b);

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
  return [mode === "log-prob" ? "surprise" : "spread", Math.min(1, value / deepest[mode])];
}

const SCALES = {
  coefficient: () => "Blue: pushed up. Orange: pushed down. Full colour at " + data.groups.flatMap(({name}, i) =>
    strongest[i] ? [number(strongest[i]) + (data.groups.length > 1 ? ` (${name})` : "")] : []).join(", ")
    + ". The coefficient is the objective's at the first update on the answer, where the policy is still the one that "
    + "sampled it (R = 1), so most objectives give one value to a whole answer. No colour: not trained on.",
  "log-prob": () => `The deeper, the less likely the token was when it was sampled: full colour at ${
    number(-deepest["log-prob"])} (${number(Math.exp(-deepest["log-prob"]), true)}).`,
  entropy: () => `The deeper, the less certain the policy was of the token: full colour at ${
    number(deepest.entropy)} nats.`,
  nothing: () => "",
};

// The exponent deepens weak shades, so that they are seen on a dark page too.
function colourTokens(holder, row) {
  [...holder.querySelectorAll("span")].forEach((span, i) => {
    const [hue, strength] = tint(row, i);
    styled(span, {"--hue": `var(--${hue})`, "--strength": (0.6 * strength ** 0.6).toFixed(3)});
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
  // At the left it is as wide as it needs to be. The window's inner width would count the scroll bar.
  styled(tip, {left: 0});
  const at = span.getBoundingClientRect(), room = document.documentElement.clientWidth - tip.offsetWidth - 12;
  styled(tip, {left: `${Math.max(0, Math.min(at.left + scrollX, room))}px`,
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
  fill(parts.length > LONGEST[view] * 1.2 ? LONGEST[view] : parts.length);
  return holder;
}

// What the verifier's reasons mean, for a right answer and for another one.
const REASONS = {
  "integers": ["the same integer", "another integer"], "same string": ["written like the gold"],
  "same spelling": ["spelt like the gold"], "same value": ["of the same value"], "proved equal": ["proved equal"],
  "equal by math-verify": ["equal by math-verify alone"], "differs from the gold": ["", "of another value"],
  "not equal to the gold": ["", "not shown to be equal"], "compared as strings": ["the same string", "another string"],
  "repeats an expression of the question": ["", "it only repeats an expression of the question"],
};
const BEFORE = {timeout: "the verifier ran out of time", too_large: "too large to judge", error: "the verifier failed",
  no_answer: "no answer was found"};
const short = text => text.length > 300 ? `${text.slice(0, 300)}…` : text;

// The verdict in words: what was read, the gold where it is not the same or stands above, and why.
function inWords(row, goldAbove) {
  const gold = problems[row[PROBLEM]][1], outcome = row[VERDICT], extracted = row[EXTRACTED], reason = row[REASON];
  const known = REASONS[reason]?.[outcome === "right" ? 0 : 1];
  const why = [BEFORE[outcome], known ?? reason].filter(Boolean);
  const parts = [...extracted === null ? [] : [["read ", extracted]],
    ...goldAbove || extracted === gold ? [] : [["gold ", gold ?? "–"]]];
  return element("p", {class: "foot"},
    ...parts.flatMap(([word, text], i) => [element("span", {}, (i ? ", " : "") + word), element("bdi", {}, short(text))]),
    ...why.length ? [element("span", {}, parts.length ? ": " : ""), element("bdi", {}, why.join(": "))] : []);
}

const verdict = row => element("strong", {}, `${MARKS[row[VERDICT]] ?? "?"} ${spoken(row[VERDICT] ?? "not judged")}`);
const hued = (node, row) => styled(node, {"--of": OUTCOME(row[VERDICT] in MARKS ? row[VERDICT] : "error")});
const isFraction = reward => reward > 0 && reward < 1;
const signed = share => `${share < 0 ? "−" : "+"}${(100 * Math.abs(share)).toFixed(1)}%`;

// What an answer contributed: a bar from the middle, to the right where it was pushed up, as long as its share.
function pushBar(row, most) {
  if (row[PUSH] === null) return element("p", {class: "track"});
  const half = 50 * Math.abs(row[PUSH]) / (most || 1), up = row[PUSH] >= 0;
  return element("p", {class: "track"}, styled(element("i"), {left: `${up ? 50 : 50 - half}%`, width: `${half}%`,
    background: `rgb(var(--${up ? "up" : "down"}))`}));
}

function answer(row) {
  const facts = [
    `step ${row[STEP]}`, data.runs.length > 1 && data.runs[row[RUN]].name,
    row[SAMPLE] !== null && `answer ${row[SAMPLE] + 1}`, row[COUNT] && `${row[COUNT]} tokens`,
    row[TRUNCATED] && "truncated", isFraction(row[REWARD]) && `reward ${number(row[REWARD])}`,
    row[ACCURACY] !== null && `group accuracy ${number(row[ACCURACY], true)}`, row[KEPT] === false && "not trained on",
    row[PUSH] !== null && `push ${signed(row[PUSH])} of its group's`];
  return hued(element("article", {class: "answer"}, element("p", {class: "head"}, verdict(row),
    ...facts.filter(Boolean).map(fact => element("span", {}, fact))),
    element("p", {class: "problem", dir: "auto"}, problems[row[PROBLEM]][0] ?? ""), answerTokens(row), inWords(row)),
    row);
}

// A question with its K answers side by side.
function group(members) {
  const first = rows[members[0]], [problem, gold] = problems[first[PROBLEM]], all = members.map(i => rows[i]);
  const right = all.filter(row => row[VERDICT] === "right").length;
  const most = all.reduce((size, row) => Math.max(size, Math.abs(row[PUSH] ?? 0)), 0);
  const facts = [`step ${first[STEP]}`, data.runs.length > 1 && data.runs[first[RUN]].name,
    `${right} of ${all.length} right`, first[ACCURACY] !== null && `r = ${number(first[ACCURACY], true)}`,
    first[KEPT] === false && "not trained on"];
  const strip = element("p", {class: "strip", role: "img",
    "aria-label": all.map(row => spoken(row[VERDICT] ?? "not judged")).join(", ")}, ...all.map(row =>
    hued(element("i"), row)));
  const cell = row => hued(element("li", {class: "cell"},
    element("p", {class: "head"}, verdict(row), element("span", {}, `${row[SAMPLE] + 1}`),
      element("span", {class: "push"}, row[PUSH] === null ? "not trained on" : `push ${signed(row[PUSH])}`)),
    pushBar(row, most), answerTokens(row), inWords(row, true), ...row[TRUNCATED] || isFraction(row[REWARD])
      ? [element("p", {class: "foot"}, element("span", {}, [row[TRUNCATED] && "truncated",
        isFraction(row[REWARD]) && `reward ${number(row[REWARD])}`].filter(Boolean).join(", ")))] : []), row);
  return element("article", {class: "group"},
    element("p", {class: "problem", dir: "auto"}, problem ?? ""),
    element("p", {class: "head"}, ...facts.filter(Boolean).map(fact => element("span", {}, fact)),
      element("span", {}, "gold ", element("bdi", {}, short(gold ?? "–")))),
    strip, element("ol", {class: "cells"}, ...all.map(cell)));
}

function more(count = FIRST[view]) {
  byId("list").append(...chosen.slice(drawnCards, drawnCards + count).map(item =>
    view === "groups" ? group(item) : answer(rows[item])));
  drawnCards = Math.min(drawnCards + count, chosen.length);
  byId("more").hidden = drawnCards >= chosen.length;
}

let searched = null;
function filter() {
  const value = name => document.querySelector(`input[name=${name}]:checked`)?.value;
  const words = byId("search").value.toLowerCase(), outcome = value("outcome");
  const run = byId("run").value, step = byId("step").value;
  if (words && searched === null)
    searched = rows.map(row => [...problems[row[PROBLEM]], row[TEXT]].join("\n").toLowerCase());
  const fits = i => {
    const row = rows[i];
    return (outcome === "all" || (outcome === "truncated" ? row[TRUNCATED] : row[VERDICT] === outcome))
      && (run === "" || row[RUN] === Number(run)) && (step === "" || row[STEP] === Number(step))
      && (!words || searched[i].includes(words));
  };
  const every = view === "groups" ? groups : [...rows.keys()];
  // A group is shown whole if one of its answers fits.
  chosen = view === "groups" ? groups.filter(group => group.some(fits)) : every.filter(fits);
  byId("count").textContent = `${whole(chosen.length)} of ${whole(every.length)} ${view}`;
  hush();
  byId("list").replaceChildren();
  drawnCards = 0;
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
    : `${whole(rows.length)} of ${whole(total)} answers: ${whole(groups.length)} questions with all their answers, as `
      + "many from every step of every run, drawn at random, and the same whenever this page is made.";
  if (rows.some(row => row[PUSH] !== null)) sample.append(" Push is an answer's share of what its group "
    + "moves: its tokens' coefficients at the first update, weighted as loss.loss_agg says. + makes it likelier.");
  sample.append(...notes.map(([run, note]) => element("span", {}, ` ${data.runs[run].name}: ${note.replace(/\.$/, "")}.`)));
  const count = test => rows.reduce((sum, row) => sum + (test(row) ? 1 : 0), 0);
  const judged = outcomes.map(name => [name, spoken(name), count(row => row[VERDICT] === name)]);
  const cut = ["truncated", "truncated", count(row => row[TRUNCATED])];
  chips("outcome", [["all", "all", rows.length], ...[...judged, cut].filter(([, , count]) => count)], "all");
  const there = Object.keys(MODES).filter(name => MODES[name] === null || rows.some(row => row[MODES[name]] !== null));
  chips("colour", there.map(name => [name, name]), there[0]);
  chips("view", [["groups", "groups", groups.length], ["answers", "single answers", rows.length]], view);
  const options = (id, values) => byId(id).append(element("option", {value: ""}, "all"),
    ...values.map(([value, label]) => element("option", {value}, label)));
  options("run", data.runs.map((run, i) => [i, run.name]));
  options("step", [...new Set(rows.map(row => row[STEP]))].sort((a, b) => a - b).map(step => [step, step]));
  byId("run").parentElement.hidden = data.runs.length < 2;
  setMode(there[0]);
  let waiting;
  byId("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  byId("filters").addEventListener("submit", event => { event.preventDefault(); filter(); });
  byId("filters").addEventListener("change", ({target}) => {
    if (target.name === "colour") { setMode(target.value); return; }
    if (target.name === "view") view = target.value;
    filter();
  });
  byId("more").addEventListener("click", () => more());
  new IntersectionObserver(entries => { if (entries.some(entry => entry.isIntersecting) && drawnCards) more(); },
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
