"""Yardsticks: pure functions of prediction, truth and the world's laws. Arrays in, numbers out, units stated.

Axes, everywhere: ``S`` seeds, ``E`` episodes, ``K = T + 1`` rows of a roll-out (the given start included), ``2d``
entries of a state. Predictions are ``[S, E, K, 2d]``, the truth is ``[E, K, 2d]``, a value per roll-out is ``[S, E]``.

Conventions that hold for every metric of this package:

- Averages over time run over the ``T`` predicted steps; the start, whose error is zero because it was given, is left
  out.
- A number that is not finite (a roll-out that blew up) counts as an *infinite* error, as outside every tolerance, and
  ends the horizon. No roll-out is dropped, so one that diverged is seen in the mean, which is then infinite.
- No metric returns NaN.
"""
