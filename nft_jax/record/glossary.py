"""What every metric of a run means, in one line each.

`python -m nft_jax.record.glossary` prints the page `metrics.md` beside this file. Tests hold that the page is this
text, and that a run writes no metric which is not here.
"""
import itertools
import re
from typing import NamedTuple


class Term(NamedTuple):
    """`names`: of one metric or of several, "length/{all,right,wrong}". `when`: what a run needs to have it; "" where
    every run has it in the rows of its steps."""
    names: str
    meaning: str
    when: str = ""


KINDS = "{all,right,wrong}"
SIGNS = "{positive,negative}"
EXPERTS = "a model with experts"
SOMETIMES = "answers of this kind"
SAMPLED = "answers that are sampled"
BUDGET = "rollout.tokens_per_step"
STORED = "rollout.answers"
ANSWERS = (
    Term("accuracy/all", "mean reward of the answers that were judged"),
    Term("length/all", "mean length of an answer, in tokens"),
    Term("length/{right,wrong}", "the same of right, of wrong answers", SOMETIMES),
    Term("entropy/all", "mean entropy of the sampled distribution, in nats per token", "answers that have it"),
    Term("entropy/{right,wrong}", "the same over the tokens of right, of wrong answers", SOMETIMES),
    Term("truncated_share", "share of the answers cut at rollout.max_new_tokens"),
    Term("verdicts/right", "number of right answers"),
    Term("verdicts/wrong", "number of answers with a final answer that is not the gold"),
    Term("verdicts/copied", "number of answers that only repeat their question; they earn nothing"),
    Term("verdicts/no_answer", "number of answers without a final answer, such as a box"),
    Term("verdicts/timeout", "number of answers that the verifier gave up after verifier.deadline"),
    Term("verdicts/too_large", "number of answers too large to be judged"),
    Term("verdicts/error", "number of answers on which the verifier itself failed; they are left out"),
)
SECTIONS: dict[str, tuple[Term, ...]] = {
    "Answers of the step, before its updates": (
        *ANSWERS,
        Term("verdicts/second_opinion", "share that only math-verify calls right",
             "verifier.mode equivalent or lenient"),
        Term("verdicts/strict_disagreement", "share of the answers on which mode strict says otherwise",
             "verifier.disagreement"),
        Term("verdicts/only_equivalent", "share that only mode equivalent calls right", "verifier.disagreement"),
        Term("verdicts/only_strict", "share that only mode strict calls right", "verifier.disagreement"),
    ),
    "Groups and tokens": (
        Term("groups/generated", "groups that were sampled in the step, or read from stored answers"),
        Term("groups/accepted_share", "share of them with right and wrong answers", "a group that was sampled"),
        Term("prompts/age", "mean number of epochs since the step's questions were asked before",
             "data.order accuracy, a question asked again"),
        Term("prompts/new_share", "share of the step's prompts whose question was never asked", "data.order accuracy"),
        Term("prompts/resting_share", "share of all questions that rest in the coming epoch", "data.order accuracy"),
        Term("groups/carried", "groups with right and wrong answers that are left for the next step"),
        Term("groups/open", "groups with answers that go on in the next step", BUDGET),
        Term("groups/kept", "groups that the step trained on"),
        Term("groups/all_wrong", "of them, groups of wrong answers only", "loss.all_wrong"),
        Term("accuracy/kept", "mean reward of the answers that the step trained on", "a group that was kept"),
        Term("rollout/batches", "generation batches of the step; each drains the slots once", SAMPLED),
        Term("rollout/occupancy", "share of the slots' decode steps that sampled a token", SAMPLED),
        Term("rollout/drained_steps", "decode steps with an empty slot and no answer left for it",
             SAMPLED),
        Term("rollout/continued_share", "share of the step's tokens that go on with answers of earlier steps", BUDGET),
        Term("rollout/age_mean", "steps since a token that is trained on was sampled, mean", BUDGET),
        Term("rollout/age_max", "its maximum", BUDGET),
        Term("answers/epoch", "epochs over the stored groups so far", STORED),
        Term("tokens/generated", "tokens that were sampled; stored answers all count at the first step"),
        Term("tokens/kept", "answer tokens that were trained on"),
        Term("tokens/packed", "tokens/kept with their prompts, which count for each answer"),
        Term("steps_skipped", "steps so far that trained on nothing, because no group had right and wrong answers"),
    ),
    "Updates": (
        Term("loss/total", "the loss, mean over the step's updates; on-policy it tells nothing of progress"),
        Term(f"loss/{SIGNS}", "its part from right, from wrong answers"),
        Term(f"coefficient/{SIGNS}", "mean -dloss/dlogprob: how hard tokens are pushed up (above 0) or down",
             "tokens of this kind"),
        Term(f"ratio/mean_{SIGNS}", "mean probability ratio to the policy that sampled", "tokens of this kind"),
        Term(f"ratio/p95_{SIGNS}", "its 95% quantile", "tokens of this kind"),
        Term(f"ratio/max_{SIGNS}", "its maximum", "tokens of this kind"),
        Term("ratio/effective_sample_size", "share of the tokens that as many tokens of one ratio are worth: "
             "1 at ratios that are all alike"),
        Term("share/clamped", "NFT: share of wrong tokens whose implicit negative ratio is at the clamp epsilon"),
        Term("share/saturated", "NFT: share of wrong tokens past the end of the implicit negative policy, r R >= 1"),
        Term("share/clipped", "share of the tokens whose gradient the clip takes"),
        Term("entropy/trained", "mean entropy over the trained tokens, by the trainer, in nats"),
        Term("grad_norm/{mean,max}", "norm of the gradient before clipping, over the step's updates"),
        Term("learning_rate", "of the step's last update"),
        Term("nonfinite/skipped", "updates of the step that were skipped: loss or gradient not finite"),
        Term("nonfinite/logprobs", "trained tokens whose old log-prob is not finite"),
        Term("mismatch/{mean,p95}", "difference of the sampler's and the trainer's log-probs, in nats",
             "rollout.old_logprobs trainer, and sampled answers"),
        Term("mismatch/outside_10_percent", "share of the tokens whose two probabilities differ by more than a tenth",
             "rollout.old_logprobs trainer, and sampled answers"),
        Term("mismatch/experts", "share of the sampler's choices of an expert (token, layer) that the trainer does not "
             "make, over the first answer to each prompt", "rollout.compare_experts"),
        Term("mismatch/rerouted_tokens", "share of these tokens with another expert in some layer",
             "rollout.compare_experts"),
        Term("objective/NAME", "mean over the trained tokens of a metric of an objective of your own",
             "an objective of your own"),
    ),
    "Experts": (
        Term("router/entropy", "mean entropy of the router, in nats per token; log(experts) if all are alike", EXPERTS),
        Term("router/fullest_share", "mean over the layers of the share of rows of the fullest expert", EXPERTS),
        Term("router/fullest_max", "the largest of these shares", EXPERTS),
        Term("router/balance", "the load-balancing loss, unweighted; experts per token if all are alike", EXPERTS),
        Term("loss/balance", "what it adds to the loss", "terms.balance_weight"),
    ),
    "Terms": (
        Term("loss/kl", "what the KL term adds to the loss", "terms.kl_weight"),
        Term("kl/mean", "KL divergence from the reference by k3, in nats per token", "terms.kl_weight"),
        Term("kl/{mean_k1,mean_k2}", "the same by the term's estimator", "terms.kl_estimator k1 or k2"),
        Term("loss/entropy_bonus", "what the entropy term adds to the loss", "terms.entropy_weight"),
        Term("share/masked", "share of the judged answers that the loss leaves out", "terms.mask_truncated"),
        Term("mismatch/weight", "mean importance weight for the sampler's mismatch", "terms.mismatch"),
        Term("mismatch/capped", "share of the tokens whose weight is the cap", "terms.mismatch"),
    ),
    "Evaluation": (
        *(term._replace(names=f"evaluation/{term.names}",
                        when=SOMETIMES if term.when == SOMETIMES else "evaluation.source") for term in ANSWERS),
        Term("evaluation/standard_error", "standard error of the accuracy, by bootstrap over the questions",
             "two questions or more"),
        Term("evaluation/pass@K", "probability that K of the answers to a question hold a right one",
             "evaluation.samples of 2 or more"),
        Term("evaluation/solutions@K", "different right answers among the K answers to a question",
             "a reward that tells solutions apart"),
        Term("evaluation/maj@K", "share of the questions whose most frequent answer is right",
             "evaluation.samples of 2 or more"),
    ),
    "Time, speed and memory": (
        Term("seconds/step", "from the row before to this one"),
        Term("seconds/{rollout,verify,score,pack,write}",
             "of a phase: sampling; waiting for the last verdicts; old log-probs; packing; writing answers"),
        Term("seconds/train", "of the optimizer updates, from the first to the last", "a group that was kept"),
        Term("seconds/evaluate", "of the evaluation", "an evaluation in this step"),
        Term("seconds/checkpoint", "of starting a checkpoint", "a checkpoint since the row before"),
        Term("tokens_per_second/rollout", "tokens/generated by seconds/rollout"),
        Term("tokens_per_second/train", "tokens/kept by seconds/train", "a group that was kept"),
        Term("tokens_per_second/device", "tokens/packed by seconds/step and devices, which NeMo-RL quotes",
             "a group that was kept"),
        Term("flops/{rollout,train}", "operations of sampling and scoring, and of the updates, without padding"),
        Term("mfu/{rollout,train,step}", "share of the devices' published bfloat16 peak that the operations reach",
             "a device with a published peak"),
        Term("memory/peak_mb", "most memory so far, MiB: of a device, on CPUs of the process"),
        Term("compiles", "programs compiled since the row before; 0 after the first rows"),
    ),
}


def expanded(names: str) -> list[str]:
    """"a/{b,c}" -> ["a/b", "a/c"]."""
    parts = [part.strip("{}").split(",") for part in re.split(r"(\{[^}]*\})", names)]
    return ["".join(chosen) for chosen in itertools.product(*parts)]


MEANINGS = {name: term for terms in SECTIONS.values() for term in terms for name in expanded(term.names)}


def meaning(key: str) -> Term | None:
    """The term of a metric of a run; None of an unknown one. evaluation/SET/... are as evaluation/...."""
    key = re.sub(r"^objective/.*", "objective/NAME", key)
    key = re.sub(r"(pass|maj)@\d+$", r"\1@K", key)
    head, _, rest = key.partition("/")
    if key not in MEANINGS and head == "evaluation":
        key = f"evaluation/{rest.partition('/')[2]}"
    return MEANINGS.get(key)


def page() -> str:
    """The glossary in Markdown."""
    lines = ["# Metrics", "",
             "Made by `python -m nft_jax.record.glossary`. Each is a column of `metrics.jsonl`, of TensorBoard and of",
             "the report. [What you should see](../../experiments/what_you_should_see.md) shows healthy curves.",
             "A set with a name has `evaluation/SET/...` for each `evaluation/...`, and `evaluation/accuracy/all` is",
             "the mean over the sets. \"only with\" names what a run needs to have the metric."]
    for section, terms in SECTIONS.items():
        lines += ["", f"## {section}", "", "| metric | meaning | only with |", "|---|---|---|"]
        lines += [f"| `{term.names}` | {term.meaning} | {term.when} |" for term in terms]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
