"""The table of an evaluation, beside the figures of the paper."""
from collections.abc import Mapping

from nft_jax.data.benchmarks import PAPER
from nft_jax.rollout.evaluation import Summary, mean_of
from nft_jax.runtime import terminal

# H. Chen et al., arXiv 2505.18116, table 1 (percent). Of the base models only the average over the six sets is given.
AVERAGE = "average of the six"
FIGURES: dict[str, dict[str, float]] = {
    "Qwen2.5-Math-7B": {AVERAGE: 31.6},
    "NFT-7B": {"aime24": 32.0, "math500": 83.2, "aime25": 18.3, "amc23": 88.5, "olympiadbench": 47.3, "minerva": 40.8,
               AVERAGE: 51.7},
    "Qwen2.5-32B": {AVERAGE: 29.6},
    "NFT-32B": {"aime24": 37.8, "math500": 88.4, "aime25": 31.5, "amc23": 93.8, "olympiadbench": 55.0, "minerva": 48.9,
                AVERAGE: 59.2},
}


def percent(estimate) -> str:
    """`41.2 ± 3.1`, without the error where there is none; `-` without an estimate."""
    if estimate is None:
        return "-"
    error = estimate.standard_error
    return f"{100 * estimate.value:.1f}" + (f" ± {100 * error:.1f}" if error == error else "")


def markdown(summaries: Mapping[str, Summary], sampling: str) -> str:
    """One table: a row for each set, then averages in which every set counts once. The columns of the paper's models
    are there if one of the paper's sets is.

    `sampling`: temperature and top-p in words, for the column "sampled".
    """
    passes = sorted({name for one in summaries.values() for name in one.estimates if name.startswith("pass@")},
                    key=lambda name: int(name.removeprefix("pass@")))
    models = FIGURES if set(PAPER) & summaries.keys() else {}
    head = ["set", "questions", "sampled", "n", "avg@n", *passes, "maj@n", "tokens", "truncated",
            "right / wrong / no answer / other", *models]

    def figures(name: str) -> list[str]:
        return [f"{known[name]:.1f}" if name in known else "-" for known in models.values()]

    rows = []
    for name, one in summaries.items():
        asked = f"{one.questions:,}" + (f" of {one.questions + one.skipped:,}" if one.skipped else "")
        counts = [one.verdicts[outcome] for outcome in ("right", "wrong", "no_answer")]
        counts.append(sum(one.verdicts.values()) - sum(counts))
        rows.append([name, asked, sampling, str(one.samples),
                     *(percent(one.estimates.get(key)) for key in ("accuracy", *passes, f"maj@{one.samples}")),
                     f"{one.length:,.0f}", f"{one.truncated_share:.1%}", " / ".join(f"{count:,}" for count in counts),
                     *figures(name)])
    averages = {AVERAGE: [name for name in PAPER if name in summaries]} if set(PAPER) <= summaries.keys() else {}
    if len(summaries) > 1 and set(summaries) != set(PAPER):
        averages[f"average of all {len(summaries)}"] = list(summaries)
    for label, names in averages.items():
        found = [summaries[name].estimates["accuracy"] for name in names if "accuracy" in summaries[name].estimates]
        if found:
            rows.append([label, "", sampling, "", percent(mean_of(found)), *[""] * (len(passes) + 4), *figures(label)])
    return terminal.markdown(head, rows) + "\n"
