"""The peers of the training benchmark are the same networks, losses and steps as ours."""

import sys

import jax
import numpy as np
import pytest

from experiments.benchmarks import convolutions, torch_networks, training, turns
from quantjax.models import alexnet, resnet, weights
from quantjax.run import parallel

torch = pytest.importorskip("torch")

NAMES = {
    "convnet": None,
    "cifar_resnet18": resnet.names,
    "alexnet_224": alexnet.torchvision_names(1, 1),
}


def small(name):
    return training.quick(training.CASES[name])._replace(steps=2)


def reversed_convnet(params):
    """State of torch's layers in order, for images upside down and right to left.

    There, borders that are alike are as ours: a last row that no kernel reaches does not count.
    """
    state = []
    for layer in params["convolutions"].values():
        state += [np.moveaxis(layer["kernel"][::-1, ::-1], (3, 2), (0, 1)), layer["bias"]]
    depth = state[-1].shape[0]
    dense = params["dense"]["kernel"]
    side = round((dense.shape[0] / depth) ** 0.5)
    maps = dense.reshape(side, side, depth, -1)[::-1, ::-1]
    state += [np.moveaxis(maps, (3, 2), (0, 1)).reshape(dense.shape[1], -1)]
    return [*state, params["dense"]["bias"], *bottleneck(params)]


def bottleneck(params):
    return [params["bottleneck"]["kernel"].T, params["bottleneck"]["bias"]]


def alike(name):
    """Our start, torch's network with the same weights, and the images it is to see."""
    case = small(name)
    begun, network = training.start(training.experiment(case)), case.torchs(case.shape)
    params, nets = begun.state.params["net"], begun.state.state["nets"]["net"]
    images, state = np.array(begun.batch["image"]), network.state_dict()
    if NAMES[name] is None:
        images = images[:, ::-1, ::-1].copy()
        values = reversed_convnet(jax.tree.map(np.asarray, params))
    else:
        tensors = {key: value.numpy() for key, value in state.items() if "bottleneck" not in key}
        params, nets = weights.load(params, nets, tensors, NAMES[name], unused=resnet.UNUSED)
        values = [value.numpy() for value in state.values()][:-2] + bottleneck(params)
    values = [torch.from_numpy(np.array(value)) for value in values]
    network.load_state_dict(dict(zip(state, values, strict=True)))
    replicated = parallel.replicated(parallel.data_mesh())
    params, nets = jax.device_put((params, nets), replicated)
    train_state = begun.state._replace(
        params={"net": params}, state={**begun.state.state, "nets": {"net": nets}}
    )
    return case, begun._replace(state=train_state), network, images


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "convnet" else pytest.mark.slow) for name in NAMES],
)
def test_torchs_network_gives_what_ours_does(name):
    case, begun, network, images = alike(name)
    params, state = begun.state.params["net"], begun.state.state
    count = sum(p.numel() for p in network.parameters())
    assert count == sum(leaf.size for leaf in jax.tree.leaves(params))
    x = begun.batch["image"]
    ours, _ = case.ours(case.shape).apply(params, state["nets"]["net"], x, train=False)
    with torch.no_grad():
        theirs = network.eval()(torch.from_numpy(np.moveaxis(images, 3, 1).copy())).numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())


# AlexNet's dropout draws from two generators.
@pytest.mark.parametrize(
    ("name", "channels_last"),
    [
        ("convnet", False),
        ("convnet", True),
        pytest.param("cifar_resnet18", True, marks=pytest.mark.slow),
    ],
)
def test_torchs_steps_have_the_losses_of_ours(name, channels_last):
    _, begun, network, images = alike(name)
    class_ids = np.array(begun.batch["label"]).argmax(1)
    step, _ = torch_networks.stepper(
        network,
        images,
        class_ids,
        np.array(begun.state.state["codebooks"]),
        channels_last=channels_last,
        compiled=False,
    )
    state = begun.state
    for _ in range(4):
        state, metrics = begun.step(state, begun.batch)
        np.testing.assert_allclose(step().item(), metrics["loss"], rtol=1e-3)


def test_a_speed_names_every_form_and_says_what_cannot_run(monkeypatch):
    def absent(*_, **__):
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(torch, "compile", absent)
    *missing, timing = training.speed(small("convnet"), "convnet", 0.0)
    assert [line.split(",")[0] for line in map(str, missing)] == ["convnet: no torch compiled"] * 2
    assert "no C++ compiler" in str(missing[0])
    assert timing.peer_name in ("torch eager", "torch channels last")
    assert timing.note.count("torch") == 2
    assert timing.ours > 0


def test_a_loop_has_a_line_without_a_workdir_and_one_with(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["training", "--quick", "--seconds", "0", "convnet_loop"])
    training.main()
    _, without, with_one = capsys.readouterr().out.splitlines()
    assert "no workdir" in without
    assert "a workdir" in with_one
    assert "medians of 2 turns" in without
    assert "over the program of" in without
    assert "over the step alone of" in without
    assert "data wait" in without


def test_turns_see_what_a_loop_adds():
    taken = turns.Turns(2)
    taken.inside = [2.2, 5.0]
    np.testing.assert_allclose(taken.over([1.0, 3.0, 5.0]), [0.1, 0.25])


def test_an_unknown_case_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["training", "vgg"])
    with pytest.raises(SystemExit):
        training.main()
    assert "no case vgg" in capsys.readouterr().err


def test_a_convolution_is_timed_forward_and_backward():
    timings = list(convolutions.layer(4, 32, 32, 3, 2, 0.0))
    assert [timing.name.split()[-1] for timing in timings] == ["forward", "images", "kernel"]
    assert all(timing.ours > 0 and "torch" in timing.note for timing in timings)
