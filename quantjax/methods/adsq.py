"""Asymmetric Deep Semantic Quantization (ADSQ): a label network guides two image networks.

Attested (abstract, and a survey's table of methods): three streams, a LabelNet of three dense
layers on label vectors and two image networks of one architecture with different weights; a
likelihood loss and a difference loss on pairs, a quantization loss, bit balance; LabelNet first,
then alternating optimization; sign codes, no codebooks.

Reconstruction (the full text could not be read): every equation and weight, the closed form of
the codes, the order of the alternation, and the network that answers at search. Do not print
results of this method beside the paper's numbers as if they were the paper's.

Inferred from DSEH, the paper that introduced the label network: the optional semantic layer ahead
of the codes. ADSQ's abstract names a common semantic space beside the Hamming space, and these are
DSEH's two; nothing else says that ADSQ has such a layer.

Reference:
  Yang, Raymond, Sun, Long, Asymmetric Deep Semantic Quantization for Image Retrieval, IEEE Access
  2019, arXiv 1903.12493.
  Li et al., Deep Joint Semantic-Embedding Hashing (DSEH), IJCAI 2018.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from quantjax import labels, losses
from quantjax.errors import InputError
from quantjax.methods.base import Inputs, Method, Phase, Refresh, images
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec, binary

Choice = Callable[[jax.Array, jax.Array], jax.Array]
"""Two arrays [N, D] -> [N, D]: `first`, `second` or `both`."""


def first(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the first argument: embeddings of the first image network alone."""
    del other
    return one


def second(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the second argument: embeddings of the second image network alone."""
    del one
    return other


def both(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the sum of both arguments: the larger value of the two decides the sign of a bit."""
    return one + other


def closed_form_codes(
    label_features: jax.Array, u: jax.Array, v: jax.Array, *, label_weight: float
) -> jax.Array:
    """Returns the binary codes nearest to the outputs of all three networks, by weighted squares.

    B = sgn(c F + U + V) = argmin over {-1, 1} of c ||F - B||^2 + ||U - B||^2 + ||V - B||^2. A
    reconstruction: that codes have a closed form is attested by "alternating optimization" alone.

    Args:
      label_features: F, [N, D].
      u: Embeddings of the first image network, [N, D].
      v: Embeddings of the second, [N, D].
      label_weight: c.

    Returns:
      Signs [N, D]; sgn(0) = +1.
    """
    return binary.sign(label_weight * label_features + u + v)


def with_semantic_layer(below: Network, above: Network) -> Network:
    """Joins two networks: the second computes the code from the first network's semantic features.

    Args:
      below: Inputs -> [B, S]; the semantic features are tanh of its output.
      above: Semantic features [B, S] -> [B, bits].

    Returns:
      Inputs -> [B, S + bits]: the output of `below`, then the output of `above`, for `adsq`.
    """

    def init(key, example):
        keys = jax.random.split(key)
        params, net_state = below.init(keys[0], example)
        output, _ = below.apply(params, net_state, example, train=False)
        of_code = above.init(keys[1], jnp.tanh(output))
        return {"semantic": params, "code": of_code[0]}, {"semantic": net_state, "code": of_code[1]}

    def apply(params, net_state, x, *, train, key=None):
        keys = (None, None) if key is None else jax.random.split(key)
        semantic, of_semantic = below.apply(
            params["semantic"], net_state["semantic"], x, train=train, key=keys[0]
        )
        code, of_code = above.apply(
            params["code"], net_state["code"], jnp.tanh(semantic), train=train, key=keys[1]
        )
        output = jnp.concatenate([semantic, code], axis=1)
        return output, {"semantic": of_semantic, "code": of_code}

    return Network(init, apply)


def adsq(
    label_network: Network,
    image_network: Network,
    *,
    bits: int,
    label_epochs: int,
    likelihood_weight: float,
    difference_weight: float,
    quantization_weight: float,
    balance_weight: float,
    label_code_weight: float,
    streams: tuple[str, str] = ("first", "second"),
    guide: Choice = first,
    query: Choice = both,
    database: Choice = both,
    semantic_dim: int = 0,
    semantic_weight: float = 1.0,
    inputs: Inputs = images,
) -> Method:
    """Builds ADSQ: trains LabelNet alone, then the two image networks in alternating epochs.

    NLL is the loss of `losses.pairwise_likelihood` for the given logits, s is +1 for a similar pair
    and -1 otherwise, and d, l, q, r are weights. LabelNet, F = tanh(g(Y)) of the label vectors Y,
    minimises over a batch
      J1 = l mean NLL(F F^T / 2) + q mean ||F - sgn F||^2 + r sum_k (mean_i F_ik)^2.
    An image network, U = tanh(f(X)), with F, the other image network's V and the codes B of all
    training rows held fixed, minimises over all pairs of a batch row and a training row
      J2 = d mean (s - <u, v> / bits)^2 + l mean NLL(U F^T / 2) + q mean ||U - B||^2
           + r sum_k (mean_i U_ik)^2,
    and the other image network minimises the same with U and V exchanged. Before each of these
    epochs F, U and V are computed anew, so that they belong to the present parameters, and B is set
    by `closed_form_codes`. All of this is reconstruction; the shape and the names of the terms are
    attested, see the module. The terms are means over pairs and rows, not sums, so that the weights
    do not depend on the sizes of batch and data set. LabelNet shares l, q and r with the image
    networks.

    With semantic_dim = S above 0 the code of every network is computed from S semantic features, G
    for LabelNet and P for an image network; J1 then has + p mean NLL(G G^T / 2), and J2 has
    + p mean NLL(P G^T / 2), G held fixed. The layer and these terms are inferred from DSEH, which
    has S = 512; its regression from codes to labels is left out, and tanh and means are ours.

    Ablations. No LabelNet: label_epochs = 0, label_code_weight = 0, guide = `second`. Shared
    weights: streams = ("first", "first"). No balance, no quantization, likelihood alone,
    difference alone: the other weights 0.

    Args:
      label_network: Multi-hot labels [B, L] float32 -> [B, bits]; the method applies tanh. The
        paper's has three dense layers. With semantic features, [B, semantic_dim + bits]: see
        `with_semantic_layer`.
      image_network: Inputs -> [B, bits], or [B, semantic_dim + bits] as above; the method applies
        tanh. Both image networks have this architecture, and start from different random keys.
      bits: Length of a code.
      label_epochs: Epochs that train LabelNet before the image networks begin.
      likelihood_weight: l.
      difference_weight: d.
      quantization_weight: q.
      balance_weight: r.
      label_code_weight: c, LabelNet's weight in the codes.
      streams: Names of the two image networks in params; one name twice makes them one network.
      guide: Chooses, from F and the other image network's V, the embeddings with which the
        likelihood compares U.
      query: Chooses the query's embedding from u and v; `first` and `database=second` is
        asymmetric.
      database: Chooses a database item's embedding from u and v.
      semantic_dim: S, the number of semantic features; 0 for no semantic layer.
      semantic_weight: p, the weight of the likelihood of semantic features.
      inputs: Selects the image networks' input from a batch: `images` or `features`.

    Returns:
      The method; params {"label_net", *streams}, state {"nets", "embeddings", "codes", "label",
      "present"}, and "semantic", LabelNet's G, if semantic_dim is above 0; all but "nets" are
      tables of the training rows.

    Raises:
      ValueError: if bits is below 1, label_epochs or semantic_dim is negative, or a stream is
        called "label_net"; and when a network first runs, if its output has another width.
    """
    if bits < 1 or label_epochs < 0 or semantic_dim < 0:
        raise InputError(
            "bits must be 1 or more and label_epochs 0 or more, and semantic_dim, too, got "
            f"{bits}, {label_epochs} and {semantic_dim}"
        )
    if "label_net" in streams:
        raise InputError(f"streams must have names other than label_net, got {streams}")
    # One name twice in `streams` is one network, and so one entry of these dicts.
    networks = {"label_net": label_network, **dict.fromkeys(streams, image_network)}
    inputs_of = {"label_net": _label_vectors, **dict.fromkeys(streams, inputs)}
    embed = functools.partial(_embed, networks, inputs_of, semantic_dim, bits)
    weights = {
        "likelihood": likelihood_weight,
        "semantic_likelihood": semantic_weight,
        "difference": difference_weight,
        "quantization_error": quantization_weight,
        "imbalance": balance_weight,
    }
    collect = functools.partial(_collect, embed)
    update = functools.partial(_update, streams, label_code_weight)
    return Method(
        init=functools.partial(_init, networks, inputs_of, semantic_dim, bits),
        phases=_phases(embed, weights, guide, streams),
        # LabelNet trains first, then the two image networks in alternating epochs.
        phase_at=lambda epoch: 0 if epoch < label_epochs else 1 + (epoch - label_epochs) % 2,
        embed=functools.partial(_embed_images, embed, streams, database),
        embed_query=functools.partial(_embed_images, embed, streams, query),
        codec=lambda params, state: BinaryCodec(bits),
        refresh=Refresh(collect=collect, update=update, every=1, start=label_epochs, at_end=True),
    )


def _phases(embed, weights, guide, streams):
    """Returns the phases of LabelNet and of both image networks."""
    label_loss = functools.partial(_label_loss, embed, weights)
    image_loss = functools.partial(_image_loss, embed, weights, guide)
    # Each image network trains against the other network's table, in alternating epochs.
    u, v = streams
    return (
        Phase(name="labels", loss=label_loss, trains=("label_net",)),
        Phase(name="first", loss=functools.partial(image_loss, u, v), trains=(u,)),
        Phase(name="second", loss=functools.partial(image_loss, v, u), trains=(v,)),
    )


def _init(networks, inputs_of, semantic_dim, bits, key, batch, num_rows):
    params, nets = {}, {}
    for number, (name, network) in enumerate(networks.items()):
        # Both image networks share an architecture but must start from different weights.
        key_of_one = jax.random.fold_in(key, number)
        params[name], nets[name] = network.init(key_of_one, inputs_of[name](batch))
    # Tables begin empty with present = False, and count for nothing before the first refresh.
    state = {
        "nets": nets,
        "embeddings": {name: jnp.zeros((num_rows, bits), jnp.float32) for name in networks},
        "codes": jnp.zeros((num_rows, bits), jnp.float32),
        "label": jnp.zeros((num_rows, batch["label"].shape[1]), batch["label"].dtype),
        "present": jnp.zeros(num_rows, bool),
    }
    if semantic_dim:
        state["semantic"] = jnp.zeros((num_rows, semantic_dim), jnp.float32)
    return params, state


def _label_vectors(batch):
    return batch["label"].astype(jnp.float32)


def _embed(networks, inputs_of, semantic_dim, bits, name, params, nets, batch, **options):
    """Returns semantic features [B, S], relaxed codes [B, bits], and the network's state."""
    x = inputs_of[name](batch)
    output, net_state = networks[name].apply(params[name], nets[name], x, **options)
    # A width that is too large would be cut in silence by the split below.
    if output.shape[1:] != (semantic_dim + bits,):
        raise InputError(
            f"network {name} must return [B, {semantic_dim + bits}], semantic_dim + bits, got "
            f"{output.shape}"
        )
    semantic, code = jnp.split(jnp.tanh(output), [semantic_dim], axis=1)
    return semantic, code, net_state


def _label_loss(embed, weights, params, state, batch, context):
    """Computes J1 of `adsq` on a batch."""
    nets = state["nets"]
    semantic, f, net_state = embed("label_net", params, nets, batch, train=True, key=context.key)
    # Pairs and bit balance are over the global batch, not over this device's rows alone.
    everyone = context.gather(f)
    similar = labels.share_label(batch["label"], context.gather(batch["label"]))
    terms = {
        "likelihood": jnp.mean(losses.pairwise_likelihood(f, everyone, similar)),
        "quantization_error": jnp.mean(losses.sign_error(f)),
        "imbalance": jnp.sum(losses.bit_balance(everyone)),
    }
    if "semantic" in state:
        pairs = losses.pairwise_likelihood(semantic, context.gather(semantic), similar)
        terms["semantic_likelihood"] = jnp.mean(pairs)
    return _total(weights, terms), ({**state, "nets": {**nets, "label_net": net_state}}, terms)


def _image_loss(embed, weights, guide, trained, fixed, params, state, batch, context):
    """Computes J2 of `adsq` for the image network `trained`; `fixed` names the other one."""
    nets = state["nets"]
    semantic, u, net_state = embed(trained, params, nets, batch, train=True, key=context.key)
    # From the table, not by running the other network, which is held fixed in this epoch.
    v = state["embeddings"][fixed]
    partners = guide(state["embeddings"]["label_net"], v)
    similar = labels.share_label(batch["label"], state["label"])
    # Pairs reach over the whole training table, so padded rows must not count.
    mean = functools.partial(_mean_over, state["present"])
    terms = {
        "likelihood": mean(losses.pairwise_likelihood(u, partners, similar)),
        "difference": mean(losses.pairwise_inner_product(u, v, similar)),
        "quantization_error": jnp.mean(
            losses.quantization_error(u, state["codes"][batch["index"]])
        ),
        "imbalance": jnp.sum(losses.bit_balance(context.gather(u))),
    }
    if "semantic" in state:
        pairs = losses.pairwise_likelihood(semantic, state["semantic"], similar)
        terms["semantic_likelihood"] = mean(pairs)
    return _total(weights, terms), ({**state, "nets": {**nets, trained: net_state}}, terms)


def _collect(embed, params, state, batch):
    """Returns a batch's rows of the tables: embeddings by every network, and labels."""
    nets = state["nets"]
    found = {name: embed(name, params, nets, batch, train=False) for name in nets}
    rows = {"embeddings": {name: code for name, (_, code, _) in found.items()}}
    if "semantic" in state:
        rows["semantic"], _, _ = found["label_net"]
    return {**rows, "label": batch["label"]}


def _update(streams, label_code_weight, key, params, state, rows, mask):
    """Sets the codes to their closed form, and the tables to the embeddings of all rows."""
    del key
    found = rows["embeddings"]
    of_images = (found[name] for name in streams)
    codes = closed_form_codes(found["label_net"], *of_images, label_weight=label_code_weight)
    # The table keeps the type of `init`: with another type the step would compile again.
    label = rows["label"].astype(state["label"].dtype)
    tables = {"embeddings": found, "codes": codes, "label": label, "present": mask}
    if "semantic" in state:
        tables["semantic"] = rows["semantic"]
    return params, {**state, **tables}


def _embed_images(embed, streams, choice, params, state, batch):
    nets = state["nets"]
    found = (embed(name, params, nets, batch, train=False) for name in streams)
    return choice(*(code for _, code, _ in found))


def _total(weights, terms):
    return sum(weights[name] * value for name, value in terms.items())


def _mean_over(present, pairs):
    # Tables are padded beyond the training rows, and padding must not count in a mean.
    total = jnp.sum(jnp.where(present, pairs, 0))
    return total / (len(pairs) * jnp.maximum(jnp.sum(present), 1))
