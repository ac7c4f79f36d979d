"""The layers one after another: a scan over stacked arrays for training, and a list of layers for sampling.

Layers with the same arrays share a program. Where they differ, one turn of the scan is a period of them.
"""
import jax
import jax.numpy as jnp

from nft_jax.model.config import LayerKind, ModelConfig
from nft_jax.model.parameters import IN_LAYERS


def scan_layers(layer, x, params, config: ModelConfig, transform=lambda body: body):
    """jax.lax.scan of `layer(x, weights, kind)`, transformed, over the stacked layers.

    What all layers have in common is a Python bool of the kind. What differs is scanned beside the weights. Layers
    with other arrays cannot share a program: where there are such, one turn of the scan is a period of them."""
    places = range(config.period)
    values = [LayerKind(*zip(*config.kinds[place::config.period], strict=True)) for place in places]
    shared = [LayerKind(*(value[0] for value in each)) for each in values]
    differing = [{name: jnp.array(value) for name, value in each._asdict().items() if len(set(value)) > 1}
                 for each in values]

    def turn(x, scanned):
        told = []
        for place, weights, differs in zip(places, of_a_period(scanned[0], config), scanned[1], strict=True):
            x, one = transform(lambda x, weights, differs, place=place: layer(
                x, weights, shared[place]._replace(**differs)))(x, weights, differs)
            told.append(one)
        return x, told[0] if len(told) == 1 else jax.tree.map(lambda *each: jnp.stack(each), *told)

    x, told = jax.lax.scan(turn, x, (in_periods(params["layers"], config), differing))
    return x, told if config.period == 1 else jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), told)


def in_periods(layers: dict, config: ModelConfig) -> dict:
    """The stacked arrays [layers, ...] as [periods, layers of a period, ...]; as they are where a period is a layer."""
    if config.period == 1:
        return layers
    return jax.tree.map(lambda w: w.reshape(config.num_layers // config.period, -1, *w.shape[1:]), layers)


def of_a_period(layers: dict, config: ModelConfig) -> list[dict]:
    """The arrays of each layer in one period of `in_periods`."""
    if config.period == 1:
        return [layers]
    found: list[dict] = [{} for _ in range(config.period)]
    for name, array in layers.items():
        owners = [layer for layer in IN_LAYERS[name].layers(config) if layer < config.period]
        leaves, tree = jax.tree.flatten(array)
        # The gradient of a split is one concatenation; that of an index would be a sum of padded arrays.
        pieces = [jnp.split(leaf, len(owners)) for leaf in leaves]
        for place, owner in enumerate(owners):
            found[owner][name] = tree.unflatten([piece[place][0] for piece in pieces])
    return found


def split_layers(params, config: ModelConfig) -> dict:
    """The parameters with "layers" as a list: over stacked arrays, every decode step would first copy each layer."""
    layers: list[dict] = []
    for layer in range(config.num_layers):
        places = {name: IN_LAYERS[name].layers(config).index(layer) for name in sorted(params["layers"])
                  if layer in IN_LAYERS[name].layers(config)}
        layers.append({name: jax.tree.map(lambda w, i=place: w[i], params["layers"][name])
                       for name, place in places.items()})
    return params | {"layers": layers}
