import subprocess
import sys
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from wm_pipelines.worlds.parts.quantities import Amount, Quantity, UnitError, convert, dimension, kind, to_base_units


class Body(BaseModel):
    mass: Annotated[float, Quantity("kg"), Field(gt=0)] = 1.0
    gravity: Annotated[float, Quantity("m/s^2")] = 9.81
    angle: Annotated[float, Quantity("rad")] = 0.0
    masses: list[Annotated[float, Quantity("kg"), Field(gt=0)]] = []
    ratio: Annotated[float, Quantity("1")] = 1.0
    temperature: Annotated[float, Quantity("K")] = 0.0


finite = st.floats(allow_nan=False, allow_infinity=False, min_value=1e-90, max_value=1e90)


@pytest.mark.parametrize(
    ("field", "text", "si"),
    [
        ("mass", "500 g", 0.5),
        ("mass", "500g", 0.5),
        ("mass", "5e-3 kg", 5e-3),
        ("mass", "5e-3", 5e-3),  # YAML reads this one as text
        ("gravity", "9.81 m/s^2", 9.81),
        ("gravity", "981 cm/s**2", 9.81),
        ("gravity", "-1 ft/s/s", -0.3048),
        ("angle", "30 deg", np.pi / 6),
        ("angle", "0.5 turn", np.pi),
        ("ratio", "3", 3.0),
        ("temperature", "20 degC", 293.15),
    ],
)
def test_units_are_converted(field, text, si):
    assert getattr(Body.model_validate({field: text}), field) == pytest.approx(si, rel=1e-14)


@settings(derandomize=True, deadline=None)
@given(value=finite)
def test_a_bare_number_is_taken_as_it_is_and_a_unit_scales_it(value):
    assert Body(mass=value).mass == value
    assert Body(mass=f"{value!r} kg").mass == value
    assert Body(mass=f"{value!r} g").mass == pytest.approx(value * 1e-3, rel=1e-14)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mass", "3 s", "expected a mass in kg, got '3 s' (time)"),
        ("mass", "3 kg*m", "expected a mass in kg, got '3 kg*m' (not a mass)"),
        ("mass", "3 kgg", "expected a mass in kg, got '3 kgg' (unknown unit 'kgg')"),
        ("mass", "heavy", "expected a mass in kg, got 'heavy'"),
        ("mass", "{0}", "expected a mass in kg, got '{0}'"),
        ("mass", float("nan"), "expected a mass in kg, got nan (not finite)"),
        ("mass", "inf", "expected a mass in kg, got 'inf' (not finite)"),
        pytest.param("mass", 10**400, f"expected a mass in kg, got {10**400} (not finite)", id="huge"),
        ("mass", 1e-300, "expected a mass in kg, got 1e-300 (its size should be greater than 1e-100 in SI units)"),
        ("mass", "1e300", "expected a mass in kg, got '1e300' (its size should be less than 1e+100 in SI units)"),
        (
            "angle",
            "-1e99 km/mm",
            "expected an angle in rad, got '-1e99 km/mm' (its size should be less than 1e+100 in SI units)",
        ),
        ("mass", "1e308 t", "expected a mass in kg, got '1e308 t' (not finite)"),
        ("mass", True, "expected a mass in kg, got True"),
        ("mass", None, "expected a mass in kg, got None"),
        ("mass", "-1 kg", "Input should be greater than 0"),
        ("angle", "2 m", "expected an angle in rad, got '2 m' (length)"),
        ("masses", ["1 kg", "2 m"], "expected a mass in kg, got '2 m' (length)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(field, value, message):
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({field: value})
    assert caught.value.errors()[0]["msg"] == message


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=st.text(max_size=20))
def test_any_text_is_a_number_or_a_validation_error(text):
    try:
        mass = Body(mass=text).mass
    except ValidationError:
        return
    assert 1e-100 <= mass <= 1e100


def test_bare_numbers_do_not_import_pint():
    code = (
        "import sys; from typing import Annotated; from pydantic import BaseModel\n"
        "from wm_pipelines.worlds.parts.quantities import Quantity\n"
        "class B(BaseModel):\n    m: Annotated[float, Quantity('kg')] = 1\n"
        "B(m=2); B(m='2'); assert 'pint' not in sys.modules; B(m='2 kg'); assert 'pint' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_arrays_and_dimensions():
    assert np.allclose(convert(np.array([0.0, 100.0]), "cm", "m"), [0.0, 1.0], rtol=1e-15)
    assert dimension("kg") * dimension("m/s") * dimension("m") == dimension("J*s")
    assert to_base_units("N/cm") == pytest.approx(100.0)
    assert kind("g") == "a mass"
    assert kind("deg") == "an angle"
    with pytest.raises(UnitError, match="shifted zero"):
        to_base_units("degC")
    with pytest.raises(UnitError, match=r"expected a length in m, got s \(time\)"):
        convert(1.0, "s", "m")


def test_an_amount_keeps_its_unit_and_knows_its_si_value():
    spring = Amount.model_validate("2 N/cm")
    assert (spring.value, spring.unit, spring.si) == (2.0, "N/cm", pytest.approx(200.0))
    assert Amount.model_validate(3).si == 3.0
    assert Amount.model_validate(spring.model_dump()) == spring
    assert Amount.model_validate(0).si == 0.0
    for wrong in ("2 quux", "two", True, float("nan"), "1 degC", 1e-300, "1e300 km", "1e999 kg", 10**400, "1 km**200"):
        with pytest.raises(ValidationError):
            Amount.model_validate(wrong)


@pytest.mark.parametrize("unit", ["km**200", "nm**60"])
def test_a_unit_that_no_number_can_hold_is_refused(unit):
    with pytest.raises(UnitError, match=r"SI units, outside 1e-100 to 1e\+100; use another"):
        to_base_units(unit)


@pytest.mark.parametrize("unit", ["px", "px/s", "kilopx", "css_pixel**2", "pixel", "pixels/ms", "dot", "ppi"])
def test_pixels_have_no_length(unit):
    with pytest.raises(UnitError, match=r"a pixel has no length; give metres per pixel .* or unit 1 for all columns"):
        to_base_units(unit)
    with pytest.raises(ValidationError, match="a pixel has no length"):
        Body(mass=f"3 {unit}")


@pytest.mark.parametrize(("unit", "metres"), [("point", 0.0254 / 72), ("inch", 0.0254)])
def test_lengths_of_print_are_lengths(unit, metres):
    assert to_base_units(unit) == pytest.approx(metres, rel=1e-3)
