"""A run too short for its method says so before it starts."""

import pytest

from quantjax import errors, launch, methods, train
from tests import run_toy, toy

pytestmark = pytest.mark.usefixtures("no_page", "no_encoder")

AT_THE_END = "the refresh (codebooks, codes) comes only at the end of {} epochs"
NO_STEP = "phase {!r} takes no step in {} epochs"


@pytest.mark.parametrize(
    ("make", "options", "num_epochs", "due"),
    [
        (toy.dqn, {"refit_every": 2}, 3, []),
        (toy.dqn, {"refit_every": 2}, 2, [AT_THE_END.format(2)]),
        (toy.dqn_ste, {"start": 1}, 2, []),
        (toy.triplet_quantization, {}, 1, []),
        (toy.deepquan, {"pretrain_epochs": 1}, 2, []),
        (
            toy.deepquan,
            {"pretrain_epochs": 2},
            2,
            [NO_STEP.format("joint", 2), AT_THE_END.format(2)],
        ),
        (toy.adsq, {"label_epochs": 2}, 4, []),
        (toy.adsq, {"label_epochs": 2}, 3, [NO_STEP.format("second", 3)]),
        (toy.adsq, {"label_epochs": 0}, 2, [NO_STEP.format("labels", 2)]),
    ],
)
def test_phases_and_refreshes_that_no_epoch_reaches_are_named(make, options, num_epochs, due):
    experiment = toy.experiment(make(**options), num_epochs=num_epochs)
    assert train.left_out(experiment) == due


def test_a_run_says_what_it_leaves_out_before_it_trains(tmp_path, capsys, monkeypatch):
    def fit(*_, **__):
        raise errors.InputError("training begins")

    monkeypatch.setattr(train, "fit", fit)
    argv = ["toy", f"--workdir={tmp_path / 'run'}", "--config.num_epochs=1"]
    argv.append("--config.method=dqn")
    with pytest.raises(SystemExit):
        launch.main(run_toy.get_config, run_toy.build, run_toy.measured, title="toy", argv=argv)
    said = capsys.readouterr()
    assert f"note: {AT_THE_END.format(1)}\n" in said.out
    assert said.err == "error: training begins\n"


def test_a_run_that_would_end_without_codebooks_is_refused_ahead_of_training(tmp_path, capsys):
    argv = ["toy", f"--workdir={tmp_path / 'run'}", "--config.num_epochs=1"]
    with pytest.raises(SystemExit) as caught:
        launch.main(run_toy.get_config, run_toy.build, run_toy.measured, title="toy", argv=argv)
    assert caught.value.code == 1
    message = "a run of 1 epochs would end without codes: codebooks do not exist before epoch 1;"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_method_whose_codes_need_no_refresh_may_do_without():
    method = toy.triplet_quantization()
    never = methods.Refresh(
        collect=method.embed,
        update=lambda key, params, state, rows, mask: (params, state),
        every=None,
        start=5,
        at_end=False,
    )
    method = method._replace(refresh=never)
    due = ["no refresh comes in 3 epochs"]
    assert train.left_out(toy.experiment(method, num_epochs=3)) == due


@pytest.mark.parametrize(
    ("make", "num_epochs", "message"),
    [
        (lambda: toy.dqn(refit_every=0), 3, "come every 1 or more, got start 0 and every 0"),
        (toy.dqn_ste, -1, "num_epochs must be 0 or more, got -1"),
        (lambda: toy.dqn_ste(start=-1), 3, "must start at epoch 0 or later"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused_first(make, num_epochs, message):
    with pytest.raises(ValueError, match=message):
        train.left_out(toy.experiment(make(), num_epochs=num_epochs))
