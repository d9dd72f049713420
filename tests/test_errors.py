from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.quantities import Quantity


class Arm(BaseModel):
    model_config = ConfigDict(extra="forbid")
    length: Annotated[float, Quantity("m"), Field(gt=0)] = 1.0


class Robot(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mass: Annotated[float, Quantity("kg"), Field(gt=0)]
    arms: list[Arm] = [Arm()]
    tool: Arm | None = None
    joints: int = 1

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
            "parameter 'robot.parameters.arms.0.lenght': unknown; known here: length",
        ),
        ({"mass": 1, "tool": {"size": 1}}, "parameter 'robot.parameters.tool.size': unknown; known here: length"),
        (
            {"mass": 1, "colour": "red"},
            "parameter 'robot.parameters.colour': unknown; known here: arms, joints, mass, tool",
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
