import numpy as np
import pytest

from quantjax import plots
from quantjax.plots.training import moving_mean
from tests.plots.drawing import draw, texts


def run(losses, phases=None, **others):
    phases = phases or ["joint"] * len(losses)
    return [
        {"step": 10 * i + 10, "epoch": 0, "phase": phase, "loss": loss}
        | {name: values[i] for name, values in others.items()}
        for i, (loss, phase) in enumerate(zip(losses, phases, strict=True))
    ]


def after(step, epoch, **values):
    return {"step": step, "epoch": epoch, "after_epoch": epoch, **values}


def panel(figure, title):
    return next(ax for ax in figure.axes if ax.get_title(loc="left").startswith(title))


def test_lines_are_the_logged_values():
    records = [*run([3.0, 2.0, 1.5], grad_norm=[5.0, 4.0, 3.0]), after(20, 0, validation=0.25)]
    records.append(after(30, 1, validation=0.5, dead_codewords=7))
    figure = plots.history(records)
    draw(figure)
    loss = figure.axes[0].lines
    np.testing.assert_array_equal(loss[0].get_xydata(), [[10, 3], [20, 2], [30, 1.5]])
    for title, due in (
        ("validation mAP", [[20, 0.25], [30, 0.5]]),
        ("grad norm", [[10, 5], [20, 4], [30, 3]]),
        ("dead codewords", [[30, 7]]),
    ):
        np.testing.assert_array_equal(panel(figure, title).lines[0].get_xydata(), due)


def test_moving_mean_equals_a_loop(rng):
    values = rng.normal(size=40)
    values[[0, 7, 8, 21]] = np.nan
    finite = np.flatnonzero(np.isfinite(values))
    for window in (1, 2, 5, 200):
        due = np.full(40, np.nan)
        for place, row in enumerate(finite):
            half = min(window // 2, place, len(finite) - 1 - place)
            due[row] = values[finite[place - half : place + half + 1]].mean()
        np.testing.assert_allclose(moving_mean(values, window), due)


def test_window_smooths_and_says_over_how_many():
    figure = plots.history(run([1.0, 5.0, 1.0, 5.0, 1.0]), window=3)
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), [1, 7 / 3, 11 / 3, 7 / 3, 1])
    assert "line: mean of 3 records" in texts(figure)


def test_each_phase_has_a_line_and_no_mean_goes_across():
    records = run([9.0, 9.0, 9.0, 1.0, 1.0, 1.0], ["labels"] * 3 + ["images"] * 3)
    figure = plots.history(records, window=5)
    labels, images = figure.axes[0].lines[1:4:2]
    np.testing.assert_array_equal(labels.get_ydata(), [9, 9, 9] + [np.nan] * 3)
    np.testing.assert_array_equal(images.get_ydata(), [np.nan] * 3 + [1, 1, 1])
    assert labels.get_color() != images.get_color()
    assert labels.get_linestyle() != images.get_linestyle()
    assert {"loss in phase labels", "loss in phase images"} <= set(texts(figure))
    np.testing.assert_array_equal(figure.axes[0].lines[-1].get_xdata(), [35, 35])


def test_a_name_with_dollars_is_no_formula():
    draw(plots.history(run([1.0, 2.0], ["$^$", "b"], **{"$_$": [1.0, 2.0]})))


def test_phases_that_take_turns_all_the_time_get_no_lines():
    few = plots.history(run([1.0] * 12, ["a", "b"] * 6))
    many = plots.history(run([1.0] * 40, ["a", "b"] * 20))
    assert len(few.axes[0].lines) == 4 + 11
    assert len(many.axes[0].lines) == 4


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_value_that_is_not_finite_leaves_a_gap_and_a_cross(missing):
    records = run([3.0, missing, 1.0], grad_norm=[1.0, 2.0, missing])
    figure = plots.history(records)
    draw(figure)
    loss, gradient = figure.axes[0], panel(figure, "grad norm")
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [3, np.nan, 1])
    np.testing.assert_array_equal(loss.lines[2].get_xdata(), [20])
    np.testing.assert_array_equal(gradient.lines[1].get_xdata(), [30])
    assert "grad norm, ×: 1 not finite" in texts(figure)  # noqa: RUF001


def test_words_stand_where_nothing_was_measured():
    nothing = float("nan")
    assert "no validation\nwas measured" in texts(plots.history(run([1.0])))
    figure = plots.history([*run([None, nothing], grad_norm=[nothing, None])])
    draw(figure)
    assert {"no loss is finite", "no value is finite"} <= set(texts(figure))
    assert "no loss was logged" in texts(plots.history([after(1, 0, validation=0.5)]))


def test_metrics_choose_the_small_panels():
    records = run([1.0, 2.0], grad_norm=[1.0, 1.0], pair_loss=[1.0, 1.0], data_wait=[0.1, 0.1])
    titles = [ax.get_title(loc="left") for ax in plots.history(records).axes[1:]]
    assert titles == ["validation mAP", "grad norm", "pair loss"]
    figure = plots.history(records, metrics=["data_wait"], validation_name="recall at 1")
    assert [ax.get_title(loc="left") for ax in figure.axes[1:]] == ["recall at 1", "data wait"]


def test_yscale_and_figsize_take_effect():
    figure = plots.history(run([1.0, 100.0]), yscale="log", figsize=(3.0, 5.0))
    draw(figure)
    assert figure.axes[0].get_yscale() == "log"
    assert all(label.get_parse_math() for label in figure.axes[0].get_yticklabels())
    assert tuple(figure.get_size_inches()) == (3.0, 5.0)


@pytest.mark.parametrize(("low", "high", "due"), [(0.05, 200, "0.1"), (1.5, 4.5, "3")])
def test_a_logarithmic_axis_has_plain_numbers(low, high, due):
    figure = plots.history(run([low, high]), yscale="log")
    draw(figure)
    labels = [label.get_text() for label in figure.axes[0].yaxis.get_ticklabels(which="both")]
    assert due in labels
    assert not any("$" in label for label in labels)


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([], {}, "records are empty"),
        ([{"loss": 1.0}], {}, 'integer "step", got .* at 0'),
        (run([1.0]), {"metrics": ["loss", "wrong"]}, "must be among"),
        (run([1.0]), {"window": 0}, "at least 1 record, got 0"),
        (run([1.0]), {"yscale": "cubic"}, "linear"),
    ],
)
def test_wrong_input_is_one_line(records, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        plots.history(records, **options)
    assert "\n" not in str(caught.value)


def test_runs_are_overlaid_with_a_look_and_a_name_each():
    runs = {
        "a $1": [*run([3.0, None, 1.0])],
        "b": run([2.0, None]),
        "c": [after(5, 0, validation=0.5)],
    }
    figure = plots.histories(runs, ylabel="mean loss")
    draw(figure)
    ax = figure.axes[0]
    first, second, crosses = ax.lines
    np.testing.assert_array_equal(first.get_xydata(), [[10, 3], [20, np.nan], [30, 1]])
    np.testing.assert_array_equal(crosses.get_xdata(), [20, 20])
    assert "2 not finite" in ax.get_title(loc="left")
    np.testing.assert_array_equal(second.get_xydata(), [[10, 2], [20, np.nan]])
    assert first.get_color() != second.get_color()
    assert second.get_marker() == "."  # of a single value a line alone would show nothing
    assert {"a \\$1", "b", "mean loss"} <= set(texts(figure))
    assert "c" not in texts(figure)
    with pytest.raises(ValueError, match="no run logged a finite recall"):
        plots.histories(runs, value="recall")
