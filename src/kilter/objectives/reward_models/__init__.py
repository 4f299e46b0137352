"""Models that score: from comparisons, from outcomes, from both answers read together."""
