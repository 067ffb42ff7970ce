"""The recipe for fine-tuning: an extractor of features is trained together with codes of them.

A perceptron of the fixed features comes first, since an extractor below a random perceptron loses
in its first steps what it knows. It is trained for a few epochs: a perceptron that knows all
training rows by heart has no gradient left for the extractor.

Reference:
  Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution,
  ICLR 2022.
"""

import optax

from quantjax import data, methods, train
from quantjax.data import augment
from quantjax.models import features
from quantjax.recipes.learned import one_device

START_EPOCHS = 5
"""Epochs that the perceptron is trained for before the extractor."""

_TRUNK = "trunk"  # the extractor's entry in params


def finetuned(
    experiment: train.Experiment,
    start: train.TrainState,
    splits: data.Splits,
    extractor: features.Extractor,
    *,
    num_epochs: int = 8,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    trunk_rate: float = 1e-4,
) -> train.Experiment:
    """Returns the experiment that trains an extractor together with a method of its features.

    In training an image is moved by up to an eighth of its smaller side and mirrored or not. The
    extractor's batch statistics stay as they are. Adam's rates fall to zero by a cosine. Epochs and
    rates were chosen among five by validation mAP on 140 training photos of clothing.

    Args:
      experiment: From `recipes.experiment`, of `START_EPOCHS` epochs, on features of the extractor.
      start: Its train state, from `recipes.trained`.
      splits: The same rows of a source of images.
      extractor: Images -> features; its weights are (params, net_state), of which params train.
      num_epochs: Passes over the training rows.
      batch_size: Images of a step, or all where there are fewer.
      learning_rate: First rate of the method's own params.
      trunk_rate: First rate of the extractor's params.
    """
    batch_size = min(batch_size, len(splits.train))
    num_steps = num_epochs * (len(splits.train) // batch_size)
    size = min(splits.source[splits.train[:1]]["image"].shape[1:3])
    distort = augment.compose(augment.random_crop(padding=size // 8), augment.random_flip())
    rates = {**dict.fromkeys(start.params, learning_rate), _TRUNK: trunk_rate}
    return train.Experiment(
        name=f"{experiment.name}, fine-tuned",
        method=_of_images(experiment.method, start, extractor),
        splits=splits,
        sampler=data.shuffled(len(splits.train), batch_size),
        augment=augment.on_images(distort),
        optimizers={
            name: optax.adam(optax.cosine_decay_schedule(rate, max(num_steps, 1)))
            for name, rate in rates.items()
        },
        num_epochs=num_epochs,
        batch_size=batch_size,
        seed=experiment.seed,
    )


def _of_images(method, start, extractor):
    """Returns a method of features that begins with an extractor, and with a train state."""
    params, net_state = extractor.weights
    (phase,) = method.phases

    def features_of(params, batch):
        return {**batch, "feature": extractor.apply((params[_TRUNK], net_state), batch["image"])}

    def init(key, batch, num_rows):
        del key, batch, num_rows
        return {**start.params, _TRUNK: params}, start.state

    def loss(params, state, batch, context):
        return phase.loss(params, state, features_of(params, batch), context)

    def embed(params, state, batch):
        return method.embed(params, state, features_of(params, batch))

    return methods.Method(
        init=init,
        phases=(phase._replace(loss=loss, trains=(*phase.trains, _TRUNK)),),
        embed=embed,
        # The loss never sees the codebooks: `refitted` fits them once, at the end.
        codec=method.codec,
    )


def refitted(experiment: train.Experiment, state: train.TrainState) -> train.TrainState:
    """Fits the codebooks of a method of features to the features of a fine-tuned extractor.

    Args:
      experiment: From `recipes.experiment`, on features of `finetuned_extractor`.
      state: At the end of `finetuned`.
    """
    kept = {name: part for name, part in state.params.items() if name != _TRUNK}
    state = state._replace(params=kept, opt={})
    return train.refresh(experiment, state, epoch=experiment.num_epochs, mesh=one_device())


def finetuned_extractor(
    extractor: features.Extractor, state: train.TrainState
) -> features.Extractor:
    """Returns an extractor with the weights of a train state of `finetuned`."""
    return extractor._replace(weights=(state.params[_TRUNK], extractor.weights[1]))
