"""Readers of single features of config.json, in the spellings of transformers 4 and 5.

All raise InputError with the field and the value found.
"""
# Why not AutoConfig: it keeps unknown fields without a word and fills in what is missing. And transformers 4.56
# reads the rope_theta of a folder written by version 5 (rope_parameters) as its own default.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from nft_jax.model.config import LinearRope, Llama3Rope, LongRope, ProportionalRope, RopeScaling, YarnRope
from nft_jax.types import InputError

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
SWITCHED = ("last", "unrotated", "if_used")        # rules of families whose windows use_sliding_window turns on
MOST_LAYERS = 10_000      # more is a damaged file: the work that follows grows with the layers
LARGEST = 2.0**127        # float32, in which all is computed, has no room for twice as much
MOST_SHOWN = 200          # characters of a value in a message
# rope_type -> the class with its settings
ROPES: dict[str, type | None] = {"default": None, "linear": LinearRope, "llama3": Llama3Rope, "yarn": YarnRope,
                                 "longrope": LongRope, "proportional": ProportionalRope}
# A spelling of the first Phi-3 models.
OTHERWISE = {"su": "longrope"}


def expect(holds: bool, name: str, value: object, remedy: str) -> None:
    if not holds:
        shown = repr(value)
        shown = shown if len(shown) <= MOST_SHOWN else shown[:MOST_SHOWN] + "..."
        raise InputError(f"config.json: {name} is {shown}: {remedy}")


def integer(raw: Mapping, name: str, least: int = 1, path: str = "") -> int:
    value = raw.get(name)
    expect(isinstance(value, int) and not isinstance(value, bool) and value >= least, path + name, value,
           f"an integer, {least} or more, is needed.")
    return value


def number(raw: Mapping, name: str, path: str = "") -> float:
    value = raw.get(name)
    expect(isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LARGEST, path + name, value,
           "a positive number is needed that float32 holds.")
    return float(value)


def numbers(raw: Mapping, name: str, path: str = "") -> tuple[float, ...]:
    values = raw.get(name)
    expect(isinstance(values, list) and len(values) > 0, path + name, values, "a list of numbers is needed.")
    return tuple(number({name: value}, name, path) for value in values)


def boolean(raw: Mapping, name: str, path: str = "") -> bool:
    value = raw.get(name, False)
    expect(isinstance(value, bool), path + name, value, "true or false is needed.")
    return value


def local_layers(raw: Mapping, rule: str) -> tuple[int, tuple[int, ...]]:
    """(window, the layers it applies to); (0, ()) when every layer attends to everything.

    transformers 5 lists `layer_types`. Without the list the family's rule decides:

        "last"       Qwen: the layers from max_window_layers on are local
        "unrotated"  SmolLM3: the layers without rotary positions are local
        "pattern"    Gemma: all layers are local but every sliding_window_pattern-th
        "last_full"  Gemma 4: the same, every sixth, and the last one is never local
        "if_set"     Mistral: all layers are local, or none where sliding_window is null
        "if_used"    Qwen3-MoE: the same, where use_sliding_window is true
        ""           no layer is local

    A window as long as the longest sequence hides nothing.
    """
    count, kinds = integer(raw, "num_hidden_layers"), raw.get("layer_types")
    expect(count <= MOST_LAYERS, "num_hidden_layers", count, f"at most {MOST_LAYERS:,} layers are read.")
    if rule in ("if_set", "if_used"):
        expect(kinds is None, "layer_types", kinds, "transformers does not read it in this family: leave it out.")
        used = rule not in SWITCHED or boolean(raw, "use_sliding_window")
        local = tuple(range(count)) if used and raw.get("sliding_window") is not None else ()
    elif kinds is not None:
        expect(isinstance(kinds, list) and len(kinds) == count and set(kinds) <= {FULL, SLIDING}, "layer_types", kinds,
               f"it must say {FULL!r} or {SLIDING!r} for each of the {count} layers; no other kind is implemented.")
        local = tuple(i for i, kind in enumerate(kinds) if kind == SLIDING)
        expect(not local or rule != "", "layer_types", kinds, "this family has no local layers.")
    elif rule in SWITCHED and raw.get("use_sliding_window") and raw.get("sliding_window") is not None:
        local = unrotated_layers(raw) if rule == "unrotated" else \
            tuple(range(integer(raw, "max_window_layers", least=0), count))
    elif rule in ("pattern", "last_full"):
        every = integer({"sliding_window_pattern": 6, **raw}, "sliding_window_pattern") if rule == "pattern" else 6
        local = tuple(i for i in range(count - (rule == "last_full")) if (i + 1) % every)
    else:
        local = ()
    expect(not local or rule not in SWITCHED or raw.get("use_sliding_window") is True, "use_sliding_window",
           raw.get("use_sliding_window"), f"layer_types names {SLIDING!r} layers, which need true and a window.")
    expect(rule != "last_full" or count - 1 not in local, "layer_types", kinds, f"transformers makes the last layer "
           f"{FULL!r} whatever stands here: write {FULL!r}.")
    window = integer(raw, "sliding_window") if local else 0
    # In some families local layers differ in more than the window.
    hides = 0 < window < integer(raw, "max_position_embeddings") or rule in ("pattern", "last_full")
    return (window, local) if hides and local else (0, ())


def ropes(raw: Mapping, kinds: Sequence[str], theta: float | None, local: str,
          local_theta: float | None) -> dict[str, Any]:
    """The fields of ModelConfig for rotary positions, but the share of a head that rotates.

    kinds: the rope_types of the family.
    theta, local_theta: the family's values where config.json has none.
    local: the field at the top with the base of local layers; "rope_parameters": it stands there alone; "": they
        rotate like the others."""
    parameters, top = raw.get("rope_parameters") or {}, {"rope_theta": raw.get("rope_theta")}
    expect(isinstance(parameters, dict), "rope_parameters", parameters, "it must be an object or null.")
    if not local:
        found = _rope(raw, kinds, {"": top, "rope_parameters": parameters, "rope_scaling": raw.get("rope_scaling")},
                      theta)
        return {"rope_theta": found[0], "rope_scaling": found[1]}
    expect(set(parameters) <= {FULL, SLIDING}, "rope_parameters", parameters, f"it must hold {FULL!r} and {SLIDING!r}.")
    found = _rope(raw, kinds, {"": top, f"rope_parameters.{FULL}": parameters.get(FULL),
                               "rope_scaling": raw.get("rope_scaling")}, theta)
    near = _rope(raw, kinds, {"": {"rope_theta": None if local == "rope_parameters" else raw.get(local)},
                              f"rope_parameters.{SLIDING}": parameters.get(SLIDING)}, local_theta)
    expect(near[1] is None, f"rope_parameters.{SLIDING}", parameters.get(SLIDING),
           "a scaling of the local layers' rotary positions is not implemented.")
    # transformers looks for it beside the two entries, and so never sees it.
    expect(getattr(found[1], "truncate", True), f"rope_parameters.{FULL}.truncate", False, "only true is implemented "
           "where local layers rotate in their own way.")
    return {"rope_theta": found[0], "rope_scaling": found[1], "local_rope_theta": near[0]}


def wide(raw: Mapping, local: tuple[int, ...]) -> dict[str, Any]:
    """The fields of ModelConfig by which Gemma 4's layers differ in their arrays. `local`: of `local_layers`.

    Heads of the layers that are not local have sizes of their own. They stand at the top of config.json, or (from
    transformers 5.24 on) in per_layer_config, once for each of these layers."""
    count, same = integer(raw, "num_hidden_layers"), boolean(raw, "attention_k_eq_v")
    far = [str(layer) for layer in range(count) if layer not in local]
    sizes = {"head_dim": integer({"global_head_dim": 512, **raw}, "global_head_dim")}
    if same and raw.get("num_global_key_value_heads") is not None:
        sizes["num_key_value_heads"] = integer(raw, "num_global_key_value_heads")
    if (listed := raw.get("per_layer_config")) is not None:
        found = {str(layer): one for layer, one in listed.items()} if isinstance(listed, dict) else {}
        # transformers leaves out what is as at the top.
        sizes = next(iter(found.values()), {})
        sound = isinstance(listed, dict) and isinstance(sizes, dict) \
            and set(sizes) <= {"head_dim", "num_key_value_heads"} and found in ({}, dict.fromkeys(far, sizes))
        expect(sound, "per_layer_config", listed, "it must give head_dim and num_key_value_heads, the same ones, to "
               f"the {FULL!r} layers {', '.join(far)}, and to no other.")
        for top, name in (("global_head_dim", "head_dim"), ("num_global_key_value_heads", "num_key_value_heads")):
            here = sizes.get(name, raw.get(name))
            expect(raw.get(top) in (None, here), top, raw.get(top), f"by per_layer_config {name} is {here!r}; these "
                   "must agree.")
    head_dim, kv_heads = (integer({name: raw.get(name), **sizes}, name) for name in ("head_dim", "num_key_value_heads"))
    heads = integer(raw, "num_attention_heads")
    expect(heads % kv_heads == 0, "num_attention_heads", heads, f"it must be a multiple of {kv_heads} kv heads.")
    expect(head_dim % 2 == 0, "global_head_dim", head_dim, "rotary positions need an even number.")
    shared = integer({"num_kv_shared_layers": 0, **raw}, "num_kv_shared_layers", least=0)
    kinds = [layer in local for layer in range(count)]
    expect(shared < count and set(kinds[:count - shared]) == set(kinds), "num_kv_shared_layers", shared,
           "before these layers must stand one of each of their kinds, whose keys and values they share.")
    name = "hidden_size_per_layer_input"
    size = 0 if raw.get(name) is None else integer(raw, name, least=0)
    words = raw.get("vocab_size_per_layer_input", 262_144)
    expect(size == 0 or words == raw["vocab_size"], "vocab_size_per_layer_input", words,
           f"only the same as vocab_size, {raw['vocab_size']}, is implemented.")
    # "vision": tokens of images see each other, and here are none.
    expect(raw.get("use_bidirectional_attention") in (None, False, "vision"), "use_bidirectional_attention",
           raw.get("use_bidirectional_attention"), "only null and 'vision' are implemented.")
    return {"wide_head_dim": head_dim, "wide_kv_heads": kv_heads, "keys_are_values": same, "shared_layers": shared,
            "double_shared_mlp": boolean(raw, "use_double_wide_mlp"), "layer_input_size": size}


def unrotated_layers(raw: Mapping) -> tuple[int, ...]:
    """The layers without rotary positions: those with 0 in no_rope_layers, or every no_rope_layer_interval-th."""
    count, rotated = integer(raw, "num_hidden_layers"), raw.get("no_rope_layers")
    if rotated is None:
        every = integer({"no_rope_layer_interval": 4, **raw}, "no_rope_layer_interval")
        return tuple(range(every - 1, count, every))
    expect(isinstance(rotated, list) and len(rotated) == count and set(rotated) <= {0, 1}, "no_rope_layers", rotated,
           f"it must say 1 (rotary positions) or 0 (none) for each of the {count} layers.")
    return tuple(layer for layer in range(count) if not rotated[layer])


def delta_layers(raw: Mapping) -> tuple[int, ...]:
    """The layers with a delta net: those that layer_types names, or all but every full_attention_interval-th."""
    count, kinds = integer(raw, "num_hidden_layers"), raw.get("layer_types")
    expect(count <= MOST_LAYERS, "num_hidden_layers", count, f"at most {MOST_LAYERS:,} layers are read.")
    if kinds is None:
        every = integer({"full_attention_interval": 4, **raw}, "full_attention_interval")
        kinds = [FULL if (layer + 1) % every == 0 else LINEAR for layer in range(count)]
    expect(isinstance(kinds, list) and len(kinds) == count and set(kinds) <= {FULL, LINEAR}, "layer_types", kinds,
           f"it must say {FULL!r} or {LINEAR!r} for each of the {count} layers; no other kind is implemented.")
    expect(FULL in kinds, "layer_types", kinds, f"at least one layer must be {FULL!r}.")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == LINEAR)


def without_grids(raw: Mapping) -> dict:
    """config.json without the settings by which rotary positions of images have three numbers. Those of text are one
    number, three times."""
    rope = raw.get("rope_parameters")
    kept = {name: value for name, value in rope.items() if name not in ("mrope_section", "mrope_interleaved")} \
        if isinstance(rope, Mapping) else rope
    return {**raw, "rope_parameters": kept}


def partial_rotary_factor(raw: Mapping, otherwise: float) -> float:
    """otherwise: where there is none; 0: the family's code in transformers does not read it."""
    found = {}
    for place in ("", "rope_parameters", "rope_scaling"):
        values, prefix = raw.get(place) if place else raw, place + "." if place else ""
        if isinstance(values, Mapping) and values.get("partial_rotary_factor") is not None:
            found[f"{prefix}partial_rotary_factor"] = number(values, "partial_rotary_factor", prefix)
    expect(len(set(found.values())) <= 1, "partial_rotary_factor", found, "these must agree.")
    name, factor = next(iter(found.items()), ("", otherwise or 1.0))
    expect(factor == 1 or (otherwise > 0 and factor < 1), name, factor,
           "more than 1 is not possible." if otherwise else "only 1 is implemented for this family.")
    return factor


def _rope(raw: Mapping, kinds: Sequence[str], places: dict[str, Any],
          default: float | None) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) from several places of config.json, which must agree; "" is the top, without scaling."""
    thetas, scalings = {}, {}
    for place, rope in places.items():
        rope = {} if rope is None else rope
        expect(isinstance(rope, dict), place, rope, "it must be an object or null.")
        prefix = place + "." if place else ""
        kind = rope.get("rope_type", rope.get("type", "default"))
        kind = OTHERWISE.get(kind, kind)
        expect(kind in kinds, f"{prefix}rope_type", kind, f"only {', '.join(kinds)} are implemented for this family; "
               "remove the scaling if the sequences are no longer than the model was trained for.")
        if kind == "longrope":
            rope = _with_lengths(raw, rope, prefix)
        known = ("rope_type", "type", "rope_theta", "partial_rotary_factor", *_settings(ROPES[kind]))
        unknown = {key: value for key, value in rope.items() if value is not None and key not in known}
        expect(not unknown, place, unknown, f"with rope_type {kind!r} these settings are not implemented.")
        if rope.get("rope_theta") is not None:
            thetas[f"{prefix}rope_theta"] = number(rope, "rope_theta", prefix)
        if place and rope:
            scalings[place] = _scaling(rope, kind, prefix)
    if not thetas and default is not None:
        thetas = {"rope_theta": default}
    expect(len(thetas) > 0, "rope_theta", None, "give it here or in rope_parameters.")
    expect(len(set(thetas.values())) == 1, "rope_theta", thetas, "these must agree.")
    expect(len(set(scalings.values())) <= 1, "rope_scaling", {place: places[place] for place in scalings},
           "these must agree.")
    return next(iter(thetas.values())), next(iter(scalings.values()), None)


def _with_lengths(raw: Mapping, rope: dict, prefix: str) -> dict:
    """The settings of a longrope with the two lengths that stand at the top of config.json."""
    name = "original_max_position_embeddings"
    original = raw.get(name, rope.get(name))
    expect(rope.get(name, original) == original, f"{prefix}{name}", rope.get(name), f"at the top it is {original}; "
           "these must agree.")
    expect(isinstance(original, int) and original > 1, name, original, "an integer, 2 or more, is needed.")
    length = integer(raw, "max_position_embeddings")
    # transformers 4 takes the ratio of the lengths, whatever the factor.
    expect(rope.get("factor") in (None, length / original), f"{prefix}factor", rope.get("factor"),
           f"max_position_embeddings / {name} is {length / original:g}; these must agree.")
    return {**rope, name: original, "max_position_embeddings": length, "factor": None}


def _settings(scaling: type | RopeScaling | None) -> dict[str, Field]:
    """Names of the settings of a scaling -> their fields."""
    return {} if scaling is None else {field.name: field for field in fields(scaling)}


def _scaling(rope: dict, kind: str, prefix: str) -> RopeScaling | None:
    found: dict[str, Any] = {}
    for name, field in _settings(ROPES[kind]).items():
        # A setting without a default must be there. null means the default.
        if rope.get(name) is None and field.default is not MISSING:
            continue
        read = {bool: boolean, int: integer, tuple[float, ...]: numbers}.get(field.type, number)
        found[name] = read(rope, name, path=prefix)
    scaling = ROPES[kind](**found) if ROPES[kind] else None
    expect(getattr(scaling, "partial_rotary_factor", 1) <= 1, f"{prefix}partial_rotary_factor",
           rope.get("partial_rotary_factor"), "more than 1 is not possible.")
    for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
        if hasattr(scaling, high):
            expect(getattr(scaling, low) < getattr(scaling, high), f"{prefix}{low}", getattr(scaling, low),
                   f"it must be less than {high} {getattr(scaling, high)}.")
    return scaling


def rope_to_json(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """One entry of rope_parameters. Without its rope_theta it is the rope_scaling of transformers 4."""
    kind = next(kind for kind, settings in ROPES.items() if settings is (scaling and type(scaling)))
    settings = {name: getattr(scaling, name) for name, field in _settings(scaling).items()
                if getattr(scaling, name) != field.default and name != "max_position_embeddings"}
    return {"rope_type": kind, "rope_theta": theta,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}}
