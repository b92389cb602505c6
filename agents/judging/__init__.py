"""How policies are judged: playing, evidence, metrics, intervals, tables."""
