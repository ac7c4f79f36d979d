"""The prompt weight or the negatives? Both at once: RFT and NFT with each of three weights, and what else was varied.

The six arms `rft W` and `nft W` are a factorial design, 2 x 3. A main effect is the mean over the levels of the other
factor, so every run counts for both; an interaction is half the difference of the differences. The other arms change
one more thing of `nft 1-r`, or, with 32 updates and on stored answers, of their own partner. All runs but those of
`rft sqrt` are shared with other studies.
"""
from experiments.harness.study import Claim, Study, run
from experiments.studies import ablate_negative_weight, ablate_updates, offline

WEIGHTS = ("1", "1-r", "sqrt")
RFT, NFT = (tuple(f"{name} {weight}" for weight in WEIGHTS) for name in ("rft", "nft"))
# Names of ablate_negative_weight; its "0" is `rft 1-r`, and its "1" is `nft 1-r`.
NEGATIVES = ("0.25", "0.5", "1.5", "2")
ALL_WRONG = ("all wrong 0.25/K", "all wrong 0.25")
MEASURES = ("steps", "tokens", "entropy")


def weighed(weight: str) -> tuple[str, str]:
    return f"rft {weight}", f"nft {weight}"


def claims(measure: str) -> tuple[Claim, ...]:
    higher = "above" if measure != "entropy" else ""
    return (
        Claim(NFT, RFT, measure, "above", "main effect of the negatives (table 1, figure of the entropy)"),
        Claim(weighed("1-r"), weighed("1"), measure, higher, "main effect of the weight (section 5)"),
        Claim(weighed("sqrt"), weighed("1"), measure, higher, "main effect of the weight (section 5)"),
        Claim(weighed("sqrt"), weighed("1-r"), measure, "alike", "main effect of the weight (section 5)"),
        Claim(("nft 1-r", "rft 1"), ("nft 1", "rft 1-r"), measure, "", "interaction"),
        Claim(("nft sqrt", "rft 1"), ("nft 1", "rft sqrt"), measure, "", "interaction"),
    )


STUDY = Study(
    name="factorial",
    title="The prompt weight or the negatives?",
    paper="table 1: NFT (omega = 1-r) is 3.4 points above RFT (omega = 1). Section 5: 1-r, sqrt are above 1. It never "
          "varies both.",
    arms={
        **{f"{name} {weight}": {"objective": name, "loss.prompt_weight": weight}
           for name in ("rft", "nft") for weight in WEIGHTS},
        **{f"negatives {weight}": ablate_negative_weight.STUDY.arms[weight] for weight in NEGATIVES},
        **{name: ablate_negative_weight.STUDY.arms[name] for name in ("negatives only", *ALL_WRONG)},
        **{name: ablate_updates.STUDY.arms[name] for name in ("nft 32", "nft 32 ema")},
        **{name: offline.STUDY.arms[name] for name in ("offline nft", "offline rft")},
    },
    claims=(
        *(claim for measure in MEASURES for claim in claims(measure)),
        *(Claim(f"negatives {weight}", "nft 1-r", "steps") for weight in NEGATIVES),
        Claim("negatives only", "nft 1-r", "steps"),
        *(Claim(name, "nft 1-r", "steps") for name in ALL_WRONG),
        Claim("nft 32 ema", "nft 32", "steps"),
        Claim("offline nft", "offline rft", "steps"),
    ),
    prepare=offline.make_answers,
    curves=RFT + NFT,
)

if __name__ == "__main__":
    run(STUDY, __doc__)
