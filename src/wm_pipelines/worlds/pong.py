"""Pong of the Atari 2600 in the Arcade Learning Environment: unlabelled play, with true positions beside it.

Bellemare, Naddaf, Veness, Bowling, *The Arcade Learning Environment: an evaluation platform for general agents*, JAIR
47 (2013). Somebody plays the right paddle; what was pressed is kept in the view ``actions``, for those who score what a
model found out by itself. Frames show the field alone, without the scores above it: 160 x 160 pixels of the screen,
averaged to `size` x `size`. Where the paddles and the ball are is read from the console's memory and checked against
the screen (tests/worlds/test_pong.py).

Needs the optional package ale-py, which brings the game (``pip install 'wm_pipelines[atari]'``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float, World, WorldParameters, check_splits, stream

FIELD = 160  # px along a side of the field, on the console's screen
_TOP = 34  # px, of the field on the screen
_FRAME = 1.0 / 60.0  # s
_SERVED = 320  # frames after which the first ball is in play
_BEFORE = 300  # frames of play, at most, before an episode begins
_FAR = 0.1  # of the rows, in which the one who follows the ball does something else
_IDLE = 4.0  # px from the ball at which it is followed no more

# Memory: where the paddle, the opponent's paddle, and the ball's x and y are kept, and what to add for their centres.
_RAM = (51, 50, 49, 54)
_OFFSET = np.array([-39.5, -41.5, -48.5, -46.5])
_PLAYER, _OPPONENT, _BALL_X, _BALL_Y = range(4)
_OUT = 0  # of the ball's y: there is none in play

ACTIONS = ("still", "up", "down")
"""What an entry of an action stands for: 1 for what was done, 0 for the others."""

_PRESSED = (0, 3, 4)  # noop, right, left: the console's names


class PongParameters(WorldParameters):
    """Parameters of `Pong`."""

    size: int = Field(64, ge=16, le=FIELD, description="pixels along a side of a frame")
    colour: bool = Field(False, description="three channels instead of one")
    frame_skip: int = Field(4, ge=1, le=30, description="frames of the console, 60 a second, between two rows")
    steps: int = Field(60, ge=1, description="T of an episode")
    policy: Literal["random", "follow", "mixed"] = Field(
        "mixed", description="keys pressed at random and held; after the ball; every episode one of the two, in turn"
    )
    held: float = Field(4.0, ge=1, description="rows for which a random key is held, on average")
    episodes: dict[str, int] = Field(
        default_factory=lambda: {"train": 200, "validation": 20, "test": 40}, description="of every split"
    )

    @field_validator("episodes")
    @classmethod
    def _some(cls, episodes: dict[str, int]) -> dict[str, int]:
        check_splits(episodes, "test: 40")
        if bad := [name for name, count in episodes.items() if count < 1]:
            raise ValueError(f"episodes: '{bad[0]}' has none")
        return episodes


@register
class Pong(World):
    """States are places ``(player y, opponent y, ball x, ball y)`` and their speeds.

    Places are those of the middles, in pixels of a field `FIELD` wide and high, y downwards; a paddle may be partly
    beyond the field. Speeds are those since the row before, in px/s. A ball out of play is told to rest in the middle
    of the field; what comes into play or leaves it has no speed in that row. Actions have three entries: `ACTIONS`.
    """

    name = "pong"
    Parameters = PongParameters
    parameters: PongParameters

    def check(self) -> None:
        """Raises UserError where ale-py is not installed."""
        _ale()

    def laws(self) -> Laws:
        """No equation is known; the first place is that of what the actions move."""
        return Laws(agent=(_PLAYER,))

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """Every split, with games of its own.

        Raises:
            UserError: ale-py is not installed.
        """
        return {name: self._split(name, count, seed) for name, count in self.parameters.episodes.items()}

    def _split(self, name: str, count: int, seed: int) -> Episodes:
        p, games = self.parameters, np.random.SeedSequence(stream(seed, name)).spawn(count)
        console = _Console(p.frame_skip)
        found = [self._episode(console, np.random.default_rng(game), k) for k, game in enumerate(games)]
        places, screens, actions = (np.stack(part) for part in zip(*found, strict=True))
        step = p.frame_skip * _FRAME
        views: dict[str, NDArray[Any] | None] = {
            "times": np.tile(step * np.arange(p.steps + 1.0), (count, 1)),
            "states": states_of(places, step),
            "frames": shrunk(screens, p.size),
            "actions": actions,
        }
        facts = {"seed": seed, "split": name, "policy": p.policy, "generator": __version__}
        return self.episodes(views, step, facts)

    def _episode(
        self, console: _Console, rng: np.random.Generator, number: int
    ) -> tuple[Float, NDArray[np.uint8], Float]:
        """Memory ``[steps + 2, 4]`` from one row before the first, screens of `FIELD`, actions ``[steps, 3]``."""
        p = self.parameters
        follows = p.policy == "follow" or (p.policy == "mixed" and number % 2 == 1)
        keys = _following(console, rng) if follows else _pressed_at_random(rng, p.held)
        console.start()
        for _ in range(int(rng.integers(_BEFORE)) // p.frame_skip + 1):
            before = console.memory()
            console.press(next(keys))
        memory, screens, taken = [before, console.memory()], [console.screen(p.colour)], []
        for _ in range(p.steps):
            key = next(keys)
            console.press(key)
            taken.append(np.eye(len(ACTIONS))[key])
            memory.append(console.memory())
            screens.append(console.screen(p.colour))
        return np.stack(memory), np.stack(screens), np.stack(taken)


def states_of(memory: Float, step: float) -> Float:
    """States ``[..., T, 8]`` of the console's memory ``[..., T + 1, 4]``, which begins one row earlier."""
    out = memory[..., _BALL_Y] == _OUT
    places = memory + _OFFSET
    places[out, _BALL_X:] = 0.5 * FIELD
    speeds = np.diff(places, axis=-2) / step
    speeds[out[..., 1:] | out[..., :-1], _BALL_X:] = 0.0
    return np.concatenate([places[..., 1:, :], speeds], -1)


def shrunk(screens: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Screens ``[..., FIELD, FIELD, C]`` averaged over the area of every pixel of ``[..., size, size, C]``."""
    if size == FIELD:
        return screens
    edges = np.linspace(0.0, FIELD, size + 1)
    lows, highs = edges[:-1, None], edges[1:, None]
    pixel = np.arange(FIELD)
    weights = np.clip(np.minimum(highs, pixel + 1) - np.maximum(lows, pixel), 0.0, None) * size / FIELD
    small = np.empty((*screens.shape[:-3], size, size, screens.shape[-1]), np.uint8)
    for at in np.ndindex(screens.shape[:-4]):
        rows = np.einsum("ah,thwc->tawc", weights, screens[at], optimize=True)
        small[at] = np.rint(np.einsum("bw,tawc->tabc", weights, rows, optimize=True))
    return small


def _pressed_at_random(rng: np.random.Generator, held: float) -> Iterator[int]:
    """Any key, held for a while."""
    while True:
        key = int(rng.integers(len(ACTIONS)))
        for _ in range(rng.geometric(1.0 / held)):
            yield key


def _following(console: _Console, rng: np.random.Generator) -> Iterator[int]:
    """After the ball, where there is one; now and then, and without one, something else for a while."""
    otherwise = _pressed_at_random(rng, 2.0)
    while True:
        memory = console.memory()
        away = (memory + _OFFSET)[_BALL_Y] - (memory + _OFFSET)[_PLAYER]
        if memory[_BALL_Y] == _OUT or rng.random() < _FAR:
            yield next(otherwise)
        else:
            yield 0 if abs(away) < _IDLE else 1 if away < 0 else 2


class _Console:
    """The game, row by row; without the random repetitions of keys that the environment offers."""

    def __init__(self, frame_skip: int) -> None:
        ale_py = _ale()
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale, self.frame_skip = ale_py.ALEInterface(), frame_skip
        self.ale.setInt("random_seed", 0)  # of nothing but the repetitions
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(ale_py.roms.get_rom_path("pong"))
        self.keys = [ale_py.Action(number) for number in _PRESSED]
        self.ale.reset_game()
        for _ in range(_SERVED):
            self.ale.act(self.keys[0])
        self.served = self.ale.cloneSystemState()

    def start(self) -> None:
        """A new game, with the first ball in play."""
        self.ale.restoreSystemState(self.served)

    def press(self, key: int) -> None:
        """One row on; a new game where this one is over."""
        for _ in range(self.frame_skip):
            self.ale.act(self.keys[key])
        if self.ale.game_over():
            self.start()

    def memory(self) -> Float:
        """Paddle, opponent, ball's x and y, as numbers ``[4]``."""
        return np.asarray(self.ale.getRAM(), np.float64)[list(_RAM)]

    def screen(self, colour: bool) -> NDArray[np.uint8]:
        """The field, ``[FIELD, FIELD, C]``."""
        screen = self.ale.getScreenRGB() if colour else self.ale.getScreenGrayscale()[..., None]
        return np.array(screen[_TOP : _TOP + FIELD], np.uint8)


def _ale() -> Any:
    """The package `ale_py`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import ale_py
        import ale_py.roms
    except ImportError:
        raise UserError("world 'pong' needs the optional package 'ale-py': pip install 'wm_pipelines[atari]'") from None
    return ale_py
