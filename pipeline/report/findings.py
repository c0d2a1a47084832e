"""What a study found, in sentences that follow from its numbers alone."""

from __future__ import annotations

from pipeline.report import Metrics


def points(metrics: Metrics, name: str, digits: int = 1) -> str:
    """A difference and its interval, such as '+3.0 [+2.0, +4.0]'; alone where one seed gives no interval."""
    ends = [metrics.get(name.replace("_mean", f"_{part}", 1)) for part in ("mean", "low", "high")]
    if ends[0] is None:
        raise ValueError(f"no number {name}")
    mean, *interval = [f"{value:+.{digits}f}" for value in ends if value is not None]
    return f"{mean} [{', '.join(interval)}]" if interval else mean


def verdict(metrics: Metrics, name: str, above: str, below: str, unclear: str) -> str:
    """One of three words, by where the difference's interval lies; without an interval it is unclear."""
    low, high = (metrics.get(name.replace("_mean", f"_{part}", 1), 0.0) for part in ("low", "high"))
    return above if low > 0 else below if high < 0 else unclear


def findings(metrics: Metrics) -> list[str]:
    """A few lines on a study, the most important first; a line stands where its numbers were measured."""
    told = (branches, system, dependence, superclass_dropout, speed, paper_signal, closed_form)
    return [line for line in (tell(metrics) for tell in told) if line]


def branches(metrics: Metrics) -> str:
    """Are weights of one's own worth it?"""
    name = "generator_branch_minus_mean_ofa_evolution"
    if name not in metrics:
        return ""
    claim = verdict(metrics, name, "beat OFA's way", "lose to OFA's way", "are not told apart from OFA's way")
    text = f"**Weights of a superclass's own {claim}**: with branches {points(metrics, name)} points"
    if (tuned := "ofa_finetuned_minus_mean_ofa_evolution") in metrics:
        text += f"; each of OFA's archs tuned alone, which trains for every scenario, {points(metrics, tuned)}"
    if (union := "generator_composed_minus_mean_generator_additive_union") in metrics:
        text += f". On unions never trained on, the branches' mean gains {points(metrics, union)} over shared weights"
    if (tuned := "generator_finetuned_minus_mean_generator_union") in metrics:
        text += f"; tuned alone, a union gains {points(metrics, tuned)}"
    return f"{text}."


def system(metrics: Metrics) -> str:
    """EAS without branches against OFA's way."""
    name = "generator_minus_ofas_way_mean_superclass"
    claim = verdict(metrics, name, "beats OFA's way", "does not reach OFA's way", "is not told apart from OFA's way")
    return f"**EAS without branches {claim}**: {points(metrics, name)} points."


def dependence(metrics: Metrics) -> str:
    """Does the best arch depend on the superclass?"""
    name = "swap_cost_mean_dropout"
    if name not in metrics:
        return ""
    found = "The best arch depends on the superclass"
    not_found = "That the best arch depends on the superclass was not found"
    claim = verdict(metrics, name, found, not_found, not_found)
    text = f"**{claim}**: another superclass's arch costs {points(metrics, name, 2)} points"
    if (bound := "split_half_interaction_sd_upper_dropout") in metrics:
        text += f"; preferences of its own with a standard deviation of up to {metrics[bound]:.1f} are not excluded"
    return f"{text}."


def superclass_dropout(metrics: Metrics) -> str:
    """Does superclass dropout help, against a supernet without it that trained longer, by what branches cost?"""
    name = "dropout_minus_plain_mean_generator_additive"
    if name not in metrics:
        return ""
    branched = "generator_branch_minus_mean_ofa_evolution" in metrics
    worse = "does not make up for a shorter training" if branched else "does worse than none"
    claim = verdict(metrics, name, "helps", worse, "is not told apart from none")
    longer = " which trained longer by what branches cost," if branched else ""
    text = f"**Superclass dropout {claim}**: the same generator on a supernet with it minus on one without,{longer}"
    return f"{text} {points(metrics, name)} points."


def speed(metrics: Metrics) -> str:
    """How fast is the generator, against the opponent whose accuracy is told?"""
    if "generator_ms" not in metrics:
        return ""
    text = f"**{metrics['timed_scenarios']:.0f} archs take {metrics['generator_ms']:.2g} ms** on one CPU core"
    if (times := "times_generator_ofa_evolution") in metrics:
        text += f"; a scenario takes OFA's way {metrics[times]:,.0f} times as long"
    return f"{text}."


def paper_signal(metrics: Metrics) -> str:
    """The generator's two training signals."""
    name = "generator_minus_generator_gates_mean_dropout"
    if name not in metrics:
        return ""
    claim = verdict(metrics, name, "does worse than the predictor's", "does better", "is not told apart from it")
    return f"**The paper's signal {claim}**: the predictor's minus the paper's, {points(metrics, name)} points."


def closed_form(metrics: Metrics) -> str:
    """The generator that is not trained, against the trained one and a long search."""
    name = "generator_minus_generator_additive_mean_dropout"
    if name not in metrics:
        return ""
    better, worse = "finds worse archs than the trained one", "finds better archs than the trained one"
    claim = verdict(metrics, name, better, worse, "is not told apart from the trained one")
    text = f"**A generator in closed form {claim}**: the trained one's minus its, {points(metrics, name)} points"
    if (long := "generator_additive_minus_evolution_long_mean_dropout") in metrics:
        text += f"; its minus those of a search with many evaluations, {points(metrics, long, 2)}"
    return f"{text}."
