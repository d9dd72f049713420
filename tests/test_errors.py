from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wm_pipelines.errors import UserError, did_you_mean, unknown, unknown_parameter, validate
from wm_pipelines.worlds.parts.quantities import Quantity


class Arm(BaseModel):
    model_config = ConfigDict(extra="forbid")
    length: Annotated[float, Quantity("m"), Field(gt=0)] = 1.0


class Gripper(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["gripper"]
    force: float = 1.0


class Welder(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["welder"]
    current: float = 1.0


class Round(BaseModel):
    model_config = ConfigDict(extra="forbid")
    radius: float


class Square(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: float
    height: float


class Robot(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mass: Annotated[float, Quantity("kg"), Field(gt=0)]
    arms: list[Arm] = [Arm()]
    tool: Arm | None = None
    joints: int = 1
    spares: dict[str, Arm] = {}
    hand: Annotated[Gripper | Welder, Field(discriminator="kind")] | None = None
    base: Round | Square | None = None

    @model_validator(mode="after")
    def _joints(self):
        if self.joints > len(self.arms):
            raise ValueError("more joints than arms")
        return self


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "parameter 'robot.parameters.mass': missing; add it"),
        ({"mass": -1}, "parameter 'robot.parameters.mass': input should be greater than 0, got -1"),
        ({"mass": "3 s"}, "parameter 'robot.parameters.mass': expected a mass in kg, got '3 s' (time)"),
        (
            {"mass": 1, "arms": [{"lenght": 1}]},
            "unknown parameter 'robot.parameters.arms.0.lenght'; did you mean 'robot.parameters.arms.0.length'?",
        ),
        ({"mass": 1, "tool": {"size": 1}}, "unknown parameter 'robot.parameters.tool.size'; known here: length"),
        (
            {"mass": 1, "colour": "red"},
            "unknown parameter 'robot.parameters.colour'; known here: arms, base, hand, joints, mass, spares, tool",
        ),
        (  # the value of a mapping
            {"mass": 1, "spares": {"left": {"lenght": 1}}},
            "unknown parameter 'robot.parameters.spares.left.lenght'; "
            "did you mean 'robot.parameters.spares.left.length'?",
        ),
        (  # a union told apart by a field: pydantic's location holds the name of the member, the file does not
            {"mass": 1, "hand": {"kind": "welder", "curent": 1}},
            "unknown parameter 'robot.parameters.hand.curent'; did you mean 'robot.parameters.hand.current'?",
        ),
        (  # a union told apart by what fits: the member with the fewest faults was meant
            {"mass": 1, "base": {"width": 1, "hight": 1, "height": 1}},
            "unknown parameter 'robot.parameters.base.hight'; did you mean 'robot.parameters.base.height'?",
        ),
        (  # what was typed is shown whole
            {"mass": 1, "tol": {"length": 3}},
            "unknown parameter 'robot.parameters.tol.length'; did you mean 'robot.parameters.tool.length'?",
        ),
        ({"mass": 1, "joints": 2}, "parameter 'robot.parameters': more joints than arms"),
        (
            {"mass": -1, "colour": 1},
            "parameter 'robot.parameters.mass': input should be greater than 0, got -1 (and 1 more)",
        ),
    ],
)
def test_one_line_that_says_where_and_what(data, message):
    with pytest.raises(UserError) as caught:
        validate(Robot, data, "robot.parameters")
    assert str(caught.value) == message


def test_valid_data_become_the_model():
    assert validate(Robot, {"mass": "500 g"}, "robot").mass == 0.5


def test_long_and_multiline_input_stays_one_short_line():
    with pytest.raises(UserError) as caught:
        validate(Robot, {"mass": 1, "joints": "one\ntwo" * 100}, "robot")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("word", "known", "ending"),
    [
        ("hn", ["mlp", "hnn"], "; did you mean 'hnn'?"),
        ("HNN", ["mlp", "hnn"], "; did you mean 'hnn'?"),
        ("train_x", ["mlp.train_x", "hnn.train_x"], "; did you mean hnn.train_x or mlp.train_x?"),
        ("qqq", ["mlp", "hnn"], "; known here: hnn, mlp"),
        (
            "qqq",
            [f"w{i:02}" for i in range(40)],
            f"; known here: {', '.join(f'w{i:02}' for i in range(12))}, … (40 in all)",
        ),
        ("qqq", [], ""),
    ],
)
def test_the_closest_known_name_is_proposed(word, known, ending):
    assert did_you_mean(word, known) == ending


def test_an_unknown_name_is_one_sentence():
    assert unknown("pipeline", "physic_eval", ["physics_eval"]) == (
        "unknown pipeline 'physic_eval'; did you mean 'physics_eval'?"
    )
    assert unknown_parameter("", "hn", ["hnn", "mlp"], {"features": 3}) == (
        "unknown parameter 'hn.features'; did you mean 'hnn.features'?"
    )
    assert unknown_parameter("hnn", "x", []) == "unknown parameter 'hnn.x'; remove it"
