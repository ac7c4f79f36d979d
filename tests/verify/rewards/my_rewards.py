"""Rewards of a user, in a module that workers can import."""
import os
import time

from nft_jax.verify.rewards import all_of, gated, register, weighted_sum


@register("short")
def short(prompt, response, gold):
    """1 for no text at all, less for every character."""
    return max(0.0, 1 - len(response) / 10)


@register("echo")
def echo(prompt, response, gold):
    """The number that the response is; prompt and gold must have come along."""
    assert prompt and gold
    return float(response)


@register("lengths", batch=True)
def lengths(prompts, responses, golds):
    """A batch reward: length relative to the longest answer of the group."""
    longest = max(map(len, responses))
    return [len(response) / longest for response in responses]


@register("one-too-few", batch=True)
def one_too_few(prompts, responses, golds):
    return [1.0] * (len(responses) - 1)


@register("moody")
def moody(prompt, response, gold):
    """Hangs, crashes or fails when the answer says so."""
    if response == "hang":
        while True:
            time.sleep(1)
    if response == "crash":
        os._exit(1)
    if response == "raise":
        raise RuntimeError("no idea")
    return 1.0


@register("sleepy")
def sleepy(prompt, response, gold):
    """Right, after a while without any CPU."""
    time.sleep(0.8)
    return 1.0


def plain(prompt, response, gold):
    """Not registered: found as my_rewards:plain."""
    return float(response == gold)


register("mixed", weighted_sum({"math": 0.75, "short": 0.25}))
register("both", all_of("math", "boxed"))
register("behind-a-gate", gated("boxed", short))
