"""The layers one after another: a scan over stacked arrays for training, and a list of layers for sampling.

Layers with the same arrays share a program. Where they differ, one turn of the scan is a period of them. A model whose
last layers share keys and values has two scans (`ModelConfig.stages`).
"""
import jax
import jax.numpy as jnp

from nft_jax.model.config import LayerKind, ModelConfig, Stage
from nft_jax.model.parameters import IN_LAYERS


def scan_layers(layer, x, params, config: ModelConfig, transform=lambda body: body, inputs=()):
    """jax.lax.scan of `layer(x, weights, kind, input, entries)`, transformed, over the stacked layers.

    layer: returns x, what it tells of the layer, and the layer's keys and values. `entries` holds those that a layer
        without its own attends to, by `kind.local`; it is empty in all other layers.
    inputs: an array [layers, ...] of which each layer gets its part, or ().

    Returns x, and what the layers told, stacked."""
    latest, told = no_entries(x, config), []
    for stage in config.stages:
        x, latest, one = _scan_stage(layer, x, latest, params, config, stage, transform, inputs)
        told.append(one)
    return x, told[0] if len(told) == 1 else jax.tree.map(lambda *each: jnp.concatenate(each), *told)


def _scan_stage(layer, x, latest, params, config: ModelConfig, stage: Stage, transform, inputs):
    kinds, places = config.kinds[stage.first:stage.first + stage.count], range(stage.period)
    values = [LayerKind(*zip(*kinds[place::stage.period], strict=True)) for place in places]
    # What all layers have in common is a Python bool of the kind. What differs is scanned beside the weights.
    common = [LayerKind(*(value[0] for value in each)) for each in values]
    differing = [{name: jnp.array(value) for name, value in each._asdict().items() if len(set(value)) > 1}
                 for each in values]
    shares = kinds[0].shared
    inputs = jax.tree.map(lambda y: in_turns(y[stage.first:stage.first + stage.count], stage), inputs)

    def turn(carry, scanned):
        (x, latest), told = carry, []
        stacks, differing, inputs = scanned
        for place, weights, differs in zip(places, of_a_turn(stacks, config, stage), differing, strict=True):
            own = inputs if stage.period == 1 else jax.tree.map(lambda y, place=place: y[place], inputs)
            # A layer of a model without shared keys and values is handed none.
            handed = latest if shares else ()
            x, one, entry = transform(lambda x, weights, differs, own, handed, place=place: layer(
                x, weights, common[place]._replace(**differs), own, handed))(x, weights, differs, own, handed)
            if latest and not shares:
                latest = latest | {common[place].local: entry}
            told.append(one)
        return (x, latest), told[0] if len(told) == 1 else jax.tree.map(lambda *each: jnp.stack(each), *told)

    stacks = {name: array for name, array in params["layers"].items() if IN_LAYERS[name].shared == shares}
    (x, latest), told = jax.lax.scan(turn, (x, latest), (
        jax.tree.map(lambda w: in_turns(w, stage), stacks), differing, inputs))
    return x, latest, told if stage.period == 1 else jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), told)


def no_entries(x, config: ModelConfig) -> dict:
    """Zeros in place of the keys and values of a local layer (True) and of another (False), for the first turn. Empty
    where every layer has its own."""
    if not config.shared_layers:
        return {}
    batch, length, _ = x.shape
    found = {}
    for layer in config.cached_layers:
        kv_heads, head_dim = config.heads_of(kind := config.kinds[layer])
        found[kind.local] = (jnp.zeros((batch, kv_heads, length, head_dim), x.dtype),) * 2
    return found


def in_turns(stack, stage: Stage):
    """[layers, ...] as [turns, layers of a turn, ...]; as it is where a turn is one layer."""
    turns = stage.count // stage.period
    return stack if stage.period == 1 else stack.reshape(turns, len(stack) // turns, *stack.shape[1:])


def of_a_turn(layers: dict, config: ModelConfig, stage: Stage) -> list[dict]:
    """The arrays of each layer in one turn of `in_turns`."""
    if stage.period == 1:
        return [layers]
    found: list[dict] = [{} for _ in range(stage.period)]
    for name, array in layers.items():
        owners = [place for place in range(stage.period) if IN_LAYERS[name].belongs(config.kinds[stage.first + place])]
        leaves, tree = jax.tree.flatten(array)
        # The gradient of a split is one concatenation; that of an index would be a sum of padded arrays.
        pieces = [jnp.split(leaf, len(owners)) for leaf in leaves]
        for place, owner in enumerate(owners):
            found[owner][name] = tree.unflatten([piece[place][0] for piece in pieces])
    return found


def split_layers(params, config: ModelConfig) -> dict:
    """The parameters with "layers" as a list: over stacked arrays, every decode step would first copy each layer."""
    owners = {name: IN_LAYERS[name].layers(config) for name in sorted(params["layers"])}
    layers: list[dict] = []
    for layer in range(config.num_layers):
        places = {name: numbers.index(layer) for name, numbers in owners.items() if layer in numbers}
        layers.append({name: jax.tree.map(lambda w, i=place: w[i], params["layers"][name])
                       for name, place in places.items()})
    return params | {"layers": layers}
