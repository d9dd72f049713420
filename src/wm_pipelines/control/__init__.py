"""Acting with world models: planners, policies, closed loops, for any family that predicts under actions."""
