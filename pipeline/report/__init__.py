"""From a study's tables to its report: statistics, figures, pages and the explorer."""
