"""From a study's tables to its report: statistics, figures, pages and the explorer."""

Metrics = dict[str, float | str]  # the numbers of a study by name, and a few words
