import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wm_pipelines.reporting import style


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


FAMILIES = [
    "pinn",
    "random_feature_collocation",
    "object_tracker",
    "sequence",
    "hamiltonian_regression",
    "oracle",
    "hnn",
    "momentum_gnn",
    "physics_informed",
    "mlp",
    "persistence",
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
]


@pytest.mark.parametrize("page", ["#ffffff", "#14171c"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lines_stand_out_on_both_pages(family, page):
    assert contrast(style.Palette(f"{f}/v" for f in FAMILIES).colour(f"{family}/v"), page) >= 3.0


def test_a_family_keeps_its_colour_and_its_variants_differ_in_dash_and_marker():
    few = style.Palette(["hnn/plain", "hnn/structured"])
    many = style.Palette(["mlp/x", "toy/x", "hnn/structured", "hnn/plain"])
    assert few.colour("hnn/plain") == many.colour("hnn/structured") != many.colour("toy/x")
    assert many.dash("hnn/plain") != many.dash("hnn/structured")
    assert many.marker("hnn/plain") != many.marker("hnn/structured")


def test_thirty_six_variants_of_a_family_look_different():
    models = [f"hnn/v{i:02}" for i in range(36)]
    palette = style.Palette(models)
    assert len({(palette.dash(m), palette.marker(m)) for m in models}) == 36


def test_models_are_named_by_family_and_variant_where_there_is_one():
    named = {"hnn/default": "hnn", "hnn/plain": "hnn · plain", "mae/default_untrained": "mae untrained"}
    assert {model: style.model_label(model) for model in named} == named


def test_models_are_listed_ceiling_first_floor_last():
    shuffled = ["persistence/a", "toy/b", "mlp/a", "oracle/a", "hnn/b", "hnn/a", "hnn/a"]
    assert style.model_order(shuffled) == ["oracle/a", "hnn/a", "hnn/b", "mlp/a", "toy/b", "persistence/a"]


@pytest.mark.parametrize(
    ("value", "plain", "pretty"),
    [
        (0.0, "0", "0"),
        (0.01234, "0.0123", "0.0123"),
        (12345.0, "12,345", "12,345"),
        (1.23e-9, "1.2e-09", "1.2·10⁻⁹"),
        (-2.5, "-2.50", "−2.50"),
        (math.inf, "inf", "diverged"),
        (math.nan, "", ""),
    ],
)
def test_numbers_read_well(value, plain, pretty):
    assert (style.plain_number(value), style.pretty_number(value)) == (plain, pretty)


@given(st.floats(1e-12, 1e12))
def test_a_printed_number_is_within_rounding_of_the_value(value):
    assert float(style.plain_number(value).replace(",", "")) == pytest.approx(value, rel=0.051)


def test_directions_of_metrics():
    assert style.lower_is_better("energy_error_probed") is True
    assert style.lower_is_better("horizon") is False
    assert style.lower_is_better("return") is False
    assert style.lower_is_better("something_else") is None


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.99987512, 0.9998889, "0.999875 … 0.999889"),
        (-0.412, 0.31, "−0.41 … 0.31"),
        (1.2e-9, 3.4e-9, "(1.2 … 3.4)·10⁻⁹"),
        (8e-10, 1.2e-8, "(0.1 … 1.2)·10⁻⁸"),
        (9.98e-4, 1.03e-3, "0.000998 … 0.001030"),
        (0.0, 2.5e-8, "(0 … 2.5)·10⁻⁸"),
        (0.45, math.inf, "0.45 … ∞"),
        (12345.0, 99999.0, "12,345 … 99,999"),
        (-2.3e-8, -1e-8, "(−2.3 … −1.0)·10⁻⁸"),
        (0.9, 0.9000000000001, ""),
        (math.nan, 1.0, ""),
    ],
)
def test_an_interval_has_one_notation_and_digits_that_tell_its_ends_apart(low, high, text):
    assert style.pretty_interval(low, high) == text


@given(st.floats(-1e300, 1e300), st.floats(0, 1e300))
def test_every_interval_can_be_written(low, width):
    text = style.plain_interval(low, low + width)
    assert text == "" or text.count(" … ") == 1
