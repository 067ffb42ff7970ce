"""A run too short for its method says so before it starts."""

import pytest

from quantjax import launch, train
from tests import run_toy, toy

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


def test_a_run_says_what_it_leaves_out_before_it_trains(tmp_path, capsys):
    argv = ["toy", f"--workdir={tmp_path / 'run'}", "--config.num_epochs=1"]
    argv.append("--config.method=dqn")
    launch.main(run_toy.get_config, run_toy.build, run_toy.measured, title="toy", argv=argv)
    out = capsys.readouterr().out
    assert out.index(f"note: {AT_THE_END.format(1)}\n") < out.index("step 4/4")


def test_a_run_that_would_end_without_codebooks_is_refused_ahead_of_training(tmp_path, capsys):
    argv = ["toy", f"--workdir={tmp_path / 'run'}", "--config.num_epochs=1"]
    with pytest.raises(SystemExit) as caught:
        launch.main(run_toy.get_config, run_toy.build, run_toy.measured, title="toy", argv=argv)
    assert caught.value.code == 1
    message = "codebooks are first made after 1 epochs, and num_epochs is 1"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
