"""The page as a reader has it, in Chromium: it opens without complaint or request, filters, searches, fits a phone, and
shows hostile text as text."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from browser import CHROMIUM, Browser
from made import make_group, make_run
from nft_jax.record.rollouts import groups_to_table
from nft_jax.report.data import page_data
from nft_jax.report.page import build
from nft_jax.types import OUTCOMES, Verdict

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")

HOSTILE = "</p><img src=x onerror=hacked=1></script><script>hacked=1</script>\u2028\u202eabc needle"
COUNT = "document.getElementById('count').textContent"
CARDS = "document.querySelectorAll('.answer').length"
GROUPS = "document.querySelectorAll('.group').length"


def save(folder, runs, rollouts, change=lambda data: None) -> Path:
    data = page_data(runs, rollouts)
    change(data)
    path = folder / "page.html"
    path.write_bytes(build(data, "two runs <b>& more").encode("utf-8", "xmlcharrefreplace"))
    return path


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser
        assert browser.problems == []                # console errors, exceptions, requests: of all pages below


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two groups of runs, 2,000 answers; in one table every outcome, an answer cut short, a question and an answer that
    are hostile. The page's own text has a lone surrogate too, which a table cannot have."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [{"step": step, "accuracy/all": step / 10, "entropy/all": 0.3, "verdicts/right": 3, "verdicts/wrong": step,
             "evaluation/accuracy/all": 0.5, "seconds/step": 2.0, "seconds/train": 1.0} for step in range(3)]
    rows[0]["entropy/all"] = rows[0]["objective/undecided"] = None
    rows[1]["objective/undecided"] = 0.25
    runs = [make_run(folder / name, rewards=((1, 0) * 8,) * 32, rows=rows, steps=2, **fields)
            for name, fields in {"a": {}, "b": {"seed": 1}, "c": {"objective": "grpo"}}.items()]
    group = make_group(5, [1, 0, 0, 0, 0, 0, None], rng=np.random.default_rng(0), longest=5)
    prompt = replace(group.prompt, problem=HOSTILE, gold=HOSTILE)
    outcomes = "right", "no_answer", "timeout", "copied", "too_large", "wrong", "error"
    group = replace(
        group, prompt=prompt,
        rollouts=tuple(replace(rollout, prompt=prompt, finish_reason="length" if rollout.sample == 2 else "stop")
                       for rollout in group.rollouts),
        verdicts=tuple(Verdict(outcome, verdict.reward, HOSTILE, HOSTILE)
                       for outcome, verdict in zip(outcomes, group.verdicts, strict=True)))
    pq.write_table(groups_to_table([group], frozenset([5])), runs[0] / "rollouts" / "step_000003.parquet")

    def change(data):
        data["rollouts"]["rows"][-1][7] = "\ud800"
        data["groups"][0]["name"] += HOSTILE

    return save(folder, runs, 2000, change)


def answers(browser, page):
    """The page, with single answers shown."""
    browser.open(page)
    choose(browser, "view", "answers")


def choose(browser, name, value):
    browser.run(f"document.querySelector('input[name={name}][value={json.dumps(value)}]').click()")


def count(browser) -> int:
    return int(browser.run(COUNT).split()[0].replace(",", ""))


def search(browser, text, expected):
    browser.run(f"(s => {{ s.value = {json.dumps(text)}; s.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
                "(document.getElementById('search'))")
    browser.until(f"{COUNT} === {json.dumps(expected)}")


def test_two_thousand_answers_open_and_a_few_are_drawn(browser, page):
    browser.open(page)
    assert browser.run(COUNT).endswith(" groups") and 0 < browser.run(GROUPS) <= 12
    choose(browser, "view", "answers")
    assert browser.run(COUNT) == "2,007 of 2,007 answers"
    assert 0 < browser.run(CARDS) <= 60
    assert browser.run("document.querySelectorAll('svg').length") >= 7
    before = browser.run(CARDS)
    browser.run("document.getElementById('more').scrollIntoView()")
    browser.until(f"{CARDS} > {before}")


def test_a_group_shows_all_its_answers_and_what_each_contributed(browser, page):
    """r, verdicts, rewards and the shares of the push, against the data of the page."""
    browser.open(page)
    rows = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])["rollouts"]["rows"]
    first = [row for row in rows if row[:2] == rows[0][:2] and row[18] == rows[0][18]]
    assert len(first) == 16
    card = "document.querySelector('.group')"
    assert "8 of 16 right" in browser.run(f"{card}.textContent") and "r = 50.0%" in browser.run(f"{card}.textContent")
    told = browser.run(f"[...{card}.querySelectorAll('.cell')].map(c => ['strong', '.push', '.track i'].map("
                       "s => c.querySelector(s))).map(([a, b, c]) => [a.textContent.slice(2), b.textContent, "
                       "c.style.width])")
    assert [each[0] for each in told] == ["right"] * 8 + ["wrong"] * 8
    shares = sorted((row[17] for row in first if row[5] == 1), reverse=True)
    assert sorted((each[1] for each in told[:8]), reverse=True) == sorted(
        (f"push +{100 * share:.1f}%" for share in shares), reverse=True)
    assert all("−" in each[1] for each in told[8:])
    widest = max(float(each[2].removesuffix("%")) for each in told)
    assert widest == pytest.approx(50, abs=0.01)                     # a half of its track
    choose(browser, "outcome", "timeout")
    assert browser.run(GROUPS) == 1                                  # whole, if one of its answers fits
    assert browser.run(f"{card}.querySelectorAll('.cell').length") == 7
    assert browser.run(f"{card}.textContent").count("not trained on") == 1


def test_verdicts_are_told_in_words(browser, page):
    answers(browser, page)
    words = browser.run("[['right', '4', 'integers'], ['wrong', '7', 'integers'], "
                        "['no_answer', null, 'the box is empty'], ['timeout', '7', 'killed'], "
                        "['wrong', '7', 'my own reason']].map(([v, e, r]) => {"
                        "const row = []; row[PROBLEM] = problems.push(['q', '4']) - 1; row[VERDICT] = v;"
                        "row[EXTRACTED] = e; row[REASON] = r; return [inWords(row).textContent, "
                        "inWords(row, true).textContent] })")
    assert words == [["read 4: the same integer"] * 2, ["read 7, gold 4: another integer", "read 7: another integer"],
                     ["gold 4: no answer was found: the box is empty", "no answer was found: the box is empty"],
                     ["read 7, gold 4: the verifier ran out of time: killed",
                      "read 7: the verifier ran out of time: killed"],
                     ["read 7, gold 4: my own reason", "read 7: my own reason"]]


def test_filters_and_search_count_what_they_show(browser, page):
    answers(browser, page)
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])["rollouts"]
    rows = data["rows"]
    for outcome in OUTCOMES:
        choose(browser, "outcome", outcome)
        assert count(browser) == sum(row[4] == outcome for row in rows) > 0
        heads = browser.run("[...document.querySelectorAll('.head strong')].map(head => head.textContent.slice(2))")
        assert set(heads) == {outcome.replace("_", " ")}
    choose(browser, "outcome", "truncated")
    assert count(browser) == 1 and "truncated" in browser.run("document.querySelector('.answer .head').textContent")
    search(browser, "no such words", "0 of 2,007 answers")
    assert browser.run(CARDS) == 0
    choose(browser, "outcome", "all")
    search(browser, "NEEDLE", "7 of 2,007 answers")                 # in question and gold, whatever the case
    asked = sum("question 12" in data["problems"][row[2]][0] for row in rows)
    search(browser, "question 12", f"{asked:,} of 2,007 answers")
    search(browser, "", "2,007 of 2,007 answers")
    browser.run("(s => { s.value = '2'; s.dispatchEvent(new Event('change', {bubbles: true})) })"
                "(document.getElementById('run'))")
    assert count(browser) == sum(row[0] == 2 for row in rows)


def test_hostile_text_stays_text(browser, page):
    answers(browser, page)
    search(browser, "needle", "7 of 2,007 answers")
    assert browser.run("typeof hacked") == "undefined"
    assert browser.run("document.querySelectorAll('main img, main script, main p p').length") == 0
    assert browser.run("document.querySelector('.problem').textContent") == HOSTILE
    assert browser.run("document.querySelector('.foot bdi').textContent") == HOSTILE
    assert browser.run("document.querySelector('h1').textContent") == "two runs <b>& more"
    choose(browser, "outcome", "error")
    assert count(browser) == 1


def test_tokens_are_coloured_and_tell_their_numbers(browser, page):
    answers(browser, page)
    search(browser, "needle", "7 of 2,007 answers")
    strengths = ("[...document.querySelectorAll('.tokens')].map(t => [...t.querySelectorAll('span')].map("
                 "s => s.style.getPropertyValue('--hue') + s.style.getPropertyValue('--strength')).join())")
    seen = {}
    assert browser.run("document.querySelector('input[name=colour]:checked').value") == "entropy"
    for mode in ("coefficient", "log-prob", "entropy", "nothing"):
        choose(browser, "colour", mode)
        seen[mode] = browser.run(strengths)
    assert len({json.dumps(each) for each in seen.values()}) == 4
    right, wrong = (each.split(",")[0] for each in seen["coefficient"][:2])
    assert right.startswith("var(--up)") and wrong.startswith("var(--down)")
    assert not right.endswith("0.000") and not wrong.endswith("0.000")
    assert all(each.endswith("0.000") for each in ",".join(seen["nothing"]).split(","))
    browser.run("document.querySelector('.tokens').focus()")
    browser.press("ArrowRight")
    told = browser.run("document.getElementById('tip').textContent")
    assert told.startswith("token 1: ") and "log-prob" in told and "entropy" in told and "coefficient 0.8" in told


def test_charts_tell_their_values_by_key(browser, page):
    browser.open(page)
    browser.run("document.querySelector('#curves svg').focus({focusVisible: true})")
    browser.press("ArrowLeft")
    told = browser.run("document.querySelector('#curves .tooltip').textContent")
    assert told.startswith("step 1") and "50.0% (50.0% to 50.0%, 2 runs)" in told and "grpo 50.0%" in told


@pytest.mark.parametrize("width", [390, 1440])
def test_a_tooltip_cuts_no_value(browser, page, width):
    """The first group's name is a long one. At every step of every chart, values are whole and on the page."""
    browser.open(page, width=width)
    assert browser.run("""[...document.querySelectorAll('svg')].every(svg => {
      const box = svg.getBoundingClientRect(), tip = svg.parentElement.querySelector('.tooltip');
      return [0, 0.5, 1].every(share => {
        svg.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + share * box.width, clientY: box.top}));
        const edge = tip.getBoundingClientRect();
        return !tip.hidden && edge.left >= -0.5 && edge.right <= innerWidth + 0.5 && [...tip.querySelectorAll('strong')]
          .every(value => {
            const at = value.getBoundingClientRect();
            return at.width > 0 && edge.left <= at.left && at.right <= edge.right && value.scrollWidth <= at.width + 1;
          });
      }) })""")


@pytest.mark.parametrize("width", [390, 1440])
def test_a_token_s_tooltip_stays_on_the_page(browser, page, width):
    """Of the last token of every answer of a group, those at the right edge too."""
    browser.open(page, width=width)
    assert browser.run("""[...document.querySelectorAll('.group .cell')].slice(0, 16).every(cell => {
      const span = [...cell.querySelectorAll('.tokens span')].at(-1), root = document.documentElement;
      span.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));
      const tip = byId('tip').getBoundingClientRect();
      return tip.width > 0 && tip.left >= 0 && tip.right <= root.clientWidth && root.scrollWidth <= root.clientWidth;
    })""")


@pytest.mark.parametrize("width", [390, 1440])
def test_charts_stand_in_line_and_the_legend_beside_them(browser, page, width):
    """The first group's name is long. Axes of a row are at one height, every curve has the same axis of steps, and the
    legend covers no chart, however far the page is scrolled."""
    browser.open(page, width=width)
    assert browser.run("""[...document.querySelectorAll('.charts')].every(charts => {
      const rows = {};
      for (const figure of charts.querySelectorAll('figure'))
        (rows[Math.round(figure.getBoundingClientRect().top)] ??= new Set()).add(
          Math.round(figure.querySelector('svg').getBoundingClientRect().top));
      return Object.values(rows).every(tops => tops.size === 1);
    })""")
    firsts = browser.run("[...document.querySelectorAll('#curves svg')].map(svg => [...svg.querySelectorAll('text')]"
                         ".filter(t => t.getAttribute('text-anchor') === 'middle')[0].textContent)")
    assert len(firsts) >= 5 and set(firsts) == {"0"}
    assert browser.run("""[0, 400, 800].every(y => {
      scrollTo(0, byId('curves').offsetTop + y);
      const legend = document.querySelector('.legend').getBoundingClientRect();
      return legend.height > 0 && [...document.querySelectorAll('#curves figure')].every(figure => {
        const box = figure.getBoundingClientRect();
        return box.bottom <= legend.top || box.top >= legend.bottom || box.right <= legend.left;
      });
    })""")


def test_metrics_of_an_objective_s_own_have_charts(browser, page):
    browser.open(page)
    titles = browser.run("[...document.querySelectorAll('#own figcaption')].map(each => each.textContent)")
    assert titles == ["undecided"]
    assert browser.run("[...byId('metric').options].every(option => !option.text.startsWith('objective/'))")


def test_the_head_of_an_answer_is_one_line_whatever_its_verdict(browser, page):
    browser.open(page, width=1440)
    choose(browser, "outcome", "timeout")
    told = browser.run("[...document.querySelectorAll('.cell')].map(cell => [cell.textContent.includes('truncated'), "
                       "cell.querySelector('.head').clientHeight])")
    assert [cut for cut, _ in told].count(True) == 1 and len(told) == 7 and len({height for _, height in told}) == 1


def test_times_have_two_digits_and_paths_break_at_their_signs(browser, page):
    browser.open(page)
    assert browser.run("[0, 0.000505, 0.0458, 0.7806, 14.97, 150].map(duration)") == [
        "0 s", "0.51 ms", "46 ms", "0.78 s", "15 s", "2.5 min"]
    assert browser.run("breakable('/tmp/held_out.jsonl -0.5').map(each => each.textContent ?? each)") == [
        "/", "", "tmp/", "", "held_out.jsonl -0.5"]


@pytest.mark.parametrize("width", [390, 1440])
def test_accuracy_is_in_sight_at_once(browser, page, width):
    browser.open(page, width=width)
    places = browser.run("[...document.querySelectorAll('#runs td.after')].map(cell => { "
                         "const at = cell.getBoundingClientRect(); return [at.left, at.right, cell.textContent] })")
    assert len(places) == 3 and all(0 <= left < right <= width and text == "50.0%" for left, right, text in places)


def test_an_axis_does_not_make_a_small_change_look_large(browser, page):
    browser.open(page)
    labels = browser.run("[[1, 0.985], [0.001, 0]].map(values => [...lineChart('t', 'share', [{name: 'a', "
                         "colour: 'red', dash: 'none', values: [[0, 1], values]}]).querySelectorAll('text')]"
                         ".map(t => t.textContent).filter(t => t.endsWith('%')))")
    assert labels[0][0] == "0%" and labels[0][-1] == "100%" and labels[1][0] == "0%" and labels[1][-1] == "10%"


def test_a_keyboard_reaches_everything(browser, page):
    browser.open(page)
    names = []
    for _ in range(60):
        browser.press("Tab")
        names.append(browser.run("document.activeElement.id || document.activeElement.name || "
                                 "document.activeElement.className.baseVal || document.activeElement.tagName"))
    assert {"A", "SUMMARY", "metric", "svg", "search", "run", "step", "outcome", "colour", "view"} <= set(names)
    assert browser.run("[...document.querySelectorAll('input, select')].every(e => e.labels.length)")


def luminance(colour):
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1:-1].split(",")[:3]]
    return np.dot([0.2126, 0.7152, 0.0722],
                  [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts])


@pytest.mark.parametrize("width", [360, 1280])
def test_pages_fit_and_texts_stand_out_in_the_light_and_in_the_dark(browser, page, width):
    backs = []
    for dark in (False, True):
        browser.open(page, width=width, dark=dark)
        assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        colours = browser.run("(e => [getComputedStyle(document.body).backgroundColor, ...e.map("
                              "s => getComputedStyle(document.querySelector(s)).color)])"
                              "(['h1', '.note', 'nav a', '.head', '.head strong', '.problem', '.tokens', '.push', "
                              "'.foot'])")
        back, *texts = map(luminance, colours)
        backs.append(back)
        contrasts = [(max(back, text) + 0.05) / (min(back, text) + 0.05) for text in texts]
        assert min(contrasts) >= 4.5, dict(zip(colours[1:], contrasts, strict=True))
        # Of an answer's text where its tokens have full colour.
        browser.run("document.querySelectorAll('.tokens span').forEach(s => s.style.setProperty('--strength', 0.6))")
        for hue in ("up", "down", "surprise", "spread"):
            drawn = browser.run(f"""(() => {{
              const span = document.querySelector('.tokens span'), paper = document.createElement('canvas').getContext(
                '2d', {{willReadFrequently: true}});
              span.style.setProperty('--hue', 'var(--{hue})');
              for (const colour of [getComputedStyle(span.closest('.cell')).backgroundColor,
                                    getComputedStyle(span).backgroundColor]) {{
                paper.fillStyle = colour; paper.fillRect(0, 0, 1, 1);
              }}
              return [`rgb(${{[...paper.getImageData(0, 0, 1, 1).data].slice(0, 3)}})`, getComputedStyle(span).color];
            }})()""")
            low, high = sorted(map(luminance, drawn))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (hue, dark, drawn)
    assert backs[0] > 0.9 and backs[1] < 0.05


def test_a_run_that_has_only_begun_is_a_page_too(browser, tmp_path):
    run = make_run(tmp_path / "new", steps=0, rows=[])
    browser.open(save(tmp_path, [run], 2000))
    assert browser.run(COUNT) == "0 of 0 groups" and "running, or killed" in browser.run("document.body.textContent")
    assert "No metrics yet." in browser.run("document.getElementById('curves').textContent")
