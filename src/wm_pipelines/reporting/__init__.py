"""From leaderboard and roll-outs to what a person reads: figures, animations, the summary, the HTML report."""
