import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic import changed

from wm_pipelines.reporting import plots
from wm_pipelines.reporting.style import Palette
from wm_pipelines.reporting.summary import main_split
from wm_pipelines.tasks.physics import figures as f
from wm_pipelines.tasks.physics.trajectories import trajectories


def traces(figure, name):
    return [t for t in figure.data if t.name == name]


def values(axis):
    return np.array([np.nan if v is None else v for v in axis], dtype=float)


def test_every_world_has_every_figure_and_no_trace_is_long(content):
    figures = {
        f"{world}/{name}": f.alone(shown, world)
        for world in content.worlds
        for name, shown in f.world_figures(content, world).items()
    }
    names = {"energy", "energy_error", "error_growth", "accuracy_against_cost", "trajectories", "learning_curves"}
    assert set(figures) == {f"{w}/{n}" for w in ("pendulum", "two_body") for n in names}
    for key, figure in figures.items():
        assert key.split("/")[0] in figure.layout.title.text
        for trace in figure.data:
            points = len(trace.x)
            assert points <= (2 if trace.fill else 1) * plots.MAX_POINTS


def test_energy_curves_are_the_data(content):
    rollouts = content.rollouts["pendulum"]
    figure = f.energy_over_time(rollouts, Palette(rollouts.energy)).figure
    (truth,), (mlp,) = traces(figure, "truth"), traces(figure, "mlp")
    np.testing.assert_allclose(values(truth.y), rollouts.truth_energy[0], rtol=1e-4)
    np.testing.assert_allclose(values(mlp.y), rollouts.energy["mlp/default"][0], rtol=1e-4)
    np.testing.assert_allclose(values(mlp.x), rollouts.time, rtol=1e-4, atol=1e-9)


def test_energy_error_is_the_median_over_episodes(content):
    rollouts = content.rollouts["pendulum"]
    figure = f.energy_error_over_time(rollouts, Palette(rollouts.energy)).figure
    energy = rollouts.energy["mlp/default"]
    expected = np.median(np.abs(energy - energy[:, :1]), axis=0)[1:]
    np.testing.assert_allclose(values(traces(figure, "mlp")[0].y), expected, rtol=1e-4)


def test_error_growth_lines_are_means_over_seeds_within_their_bands_where_models_are_few(content, monkeypatch):
    many = f.world_figures(content, "pendulum")["error_growth"].figure
    assert not any(t.fill for t in many.data), "bands of many models hide each other"
    monkeypatch.setattr(f, "_BANDS", 99)
    figure = f.world_figures(content, "pendulum")["error_growth"].figure
    board = content.results.scores
    rows = board[(board.world == "pendulum") & (board.family == "mlp") & (board.metric == "mse") & (board.step > 0)]
    line = traces(figure, "mlp")[0]
    np.testing.assert_allclose(values(line.y), rows.groupby("step")["value"].mean(), rtol=1e-4)
    np.testing.assert_allclose(values(line.x), content.rollouts["pendulum"].time[sorted(rows.step.unique())], rtol=1e-4)
    band = next(t for t in figure.data if t.fill and t.legendgroup == "mlp/default")
    high, low = np.split(values(band.y), 2)
    assert (low[::-1] <= values(line.y)).all()
    assert (values(line.y) <= high).all()


def test_a_blown_up_model_leaves_gaps_and_hides_nobody(content):
    rollouts = content.rollouts["pendulum"]
    energy = rollouts.energy["mlp/default"].copy()
    energy[:, 30:40], energy[:, 40:] = 1e30, np.nan
    broken = replace(rollouts, energy={**rollouts.energy, "mlp/default": energy})
    palette = Palette(broken.energy)
    figure = f.energy_over_time(broken, palette).figure
    low, high = figure.layout.yaxis.range
    assert high - low < 10 * rollouts.truth_energy[0, 0]
    assert np.isnan(values(traces(figure, "mlp")[0].y)[45])
    json.loads(f.energy_error_over_time(broken, palette).figure.to_json())


def test_trajectories_show_paths_of_bodies_with_equal_axes(content):
    rollouts = content.rollouts["two_body"]
    shown = trajectories(rollouts, Palette(rollouts.predicted))
    assert shown.title == "Trajectories of the bodies"
    truth = traces(shown.figure, "truth")[0]
    x, y = values(truth.x), values(truth.y)
    assert np.isnan(x).sum() == 2  # a gap after each of two bodies
    np.testing.assert_allclose((x**2 + y**2)[~np.isnan(x)], 1.0, rtol=1e-3)
    assert shown.figure.layout.yaxis.scaleanchor == "x"


def test_a_winding_angle_is_cut_where_it_jumps(content):
    rollouts = content.rollouts["pendulum"]
    winding = rollouts.truth.copy()
    winding[..., 0] = np.linspace(0, 9.0, winding.shape[1])
    shown = trajectories(replace(rollouts, truth=winding, angles=(0,)), Palette(rollouts.predicted))
    x = values(traces(shown.figure, "truth")[0].x)
    assert np.nanmax(np.abs(x)) <= np.pi
    assert np.isnan(x).sum() == 1
    assert np.nanmax(np.abs(np.diff(x))) < 1.0


def test_accuracy_against_cost_leaves_references_to_a_line(content):
    shown = f.world_figures(content, "pendulum")["accuracy_against_cost"].figure
    names = {t.name for t in shown.data}
    assert "mlp" in names
    assert not {"oracle", "persistence"} & names
    assert shown.layout.annotations[0].text == "persistence"
    structured = traces(shown, "hnn · structured")[0]
    assert structured.x[0] == pytest.approx(0.4)


def test_without_data_there_is_no_figure(content):
    bare = changed(content, {}, curves={}, scores=content.results.scores.iloc[:0])
    assert not any(f.world_figures(bare, world) for world in ("pendulum", "two_body"))


@pytest.mark.parametrize(("count", "most"), [(1, 5), (5, 5), (1000, 400), (401, 400)])
def test_thinning_keeps_both_ends(count, most):
    kept = plots.thinned(count, most)
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert len(kept) == min(count, most)


def test_main_split():
    assert main_split(["train", "test", "B"]) == "test"
    assert main_split(["C", "B"]) == "B"
    assert main_split([]) == ""


def test_an_exact_reference_does_not_squeeze_the_others(content):
    figure = f.energy_error_over_time(content.rollouts["pendulum"], Palette(content.models)).figure
    assert figure.layout.yaxis.range[0] > -12  # the oracle's error is rounding, 1e-16


def test_a_curve_below_the_axis_is_named(content):
    shown = f.energy_error_over_time(content.rollouts["pendulum"], Palette(content.models))
    assert shown.caption.endswith("Below the axis: oracle, persistence.")
    assert plots.below({"mlp/default": [1.0, np.nan], "hnn/plain": [1e-9]}, {"range": [-3.0, 0.0]}) == (
        " Below the axis: hnn · plain."
    )
    assert plots.below({"mlp/default": [1.0]}, {}) == ""


def test_who_diverged_is_named_where_it_cannot_be_drawn(content):
    scores = content.results.scores.copy()
    scores.loc[(scores["family"] == "mlp") & (scores["metric"] == "mse") & (scores["step"] < 0), "value"] = np.inf
    shown = f.world_figures(changed(content, scores=scores), "pendulum")["accuracy_against_cost"]
    assert shown.caption.endswith("Not drawn, since it diverged: mlp.")


def test_a_phase_portrait_has_a_gap_at_an_impact_and_none_elsewhere():
    from wm_pipelines.tasks.physics.trajectories import _curve

    t = np.linspace(0.0, 3.0, 301) % 1.0
    ball = np.stack([t * (1 - t), 0.5 - t], -1)
    x, p = _curve(0, 1, ())(ball)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(p)), [100, 200, 300])
    np.testing.assert_array_equal(np.isnan(x), np.isnan(p))
    swing = np.linspace(0, 6 * np.pi, 61)  # twenty rows a turn
    assert np.isfinite(_curve(0, 1, ())(np.stack([np.cos(swing), -np.sin(swing)], -1))).all()
