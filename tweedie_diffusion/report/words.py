"""An evaluation as text: what a terminal shows."""

from typing import Any

from tweedie_diffusion.report.evaluation import FLOORED

NOT_IDENTIFIABLE = "not identifiable"
MEANING = {
    "frechet": "Fréchet distance; 0 is best",
    "kid": "kernel distance; 0 is best",
    "precision": "part of the samples that lie among real images",
    "recall": "part of the real images that lie among samples",
    "density": "how densely samples lie among real images; 1 if alike",
    "coverage": "part of the real images with a sample near",
}
CLEAR = 3  # standard errors, beyond which a difference is told
SLIGHT = 0.03  # of 1: a deviation below it is not worth a word


def verdicts(numbers: dict[str, Any]) -> list[tuple[str, bool]]:
    """What the numbers say, a sentence each, and whether it is good."""
    found = [_verdict_on_samples(numbers["frechet"])]
    for name, of in (("calibration", ""), ("calibration_by_frames", "By second frames: ")):
        if numbers.get(name):
            said = (_verdict_on_spread(numbers[name].get("uniformity")), _verdict_on_residual(numbers[name]))
            found += [(of + verdict[0], verdict[1]) for verdict in said if verdict]
    return [verdict for verdict in found if verdict]


def _verdict_on_samples(entry):
    value, floor, spread = entry["matched"], entry["floor"], entry["difference_sd"]
    if not floor or spread is None:
        return None
    numbers = f"Fréchet distance {value:.3g}, and {floor:.3g} between parts of the real images"
    if value <= floor + CLEAR * spread:
        return f"Samples are as near to real images as these are to each other: {numbers}.", True
    return f"Samples are {value / floor:.1f} times as far from real images as these from each other: {numbers}.", False


def _verdict_on_spread(uniformity):
    if not uniformity:
        return None
    spread, error = uniformity["dispersion"], uniformity["dispersion_error"]
    numbers = f"spread of the ranks of the truth {spread:.2f} ± {error:.2f}, calibrated 1"
    if abs(spread - 1) < max(CLEAR * error, SLIGHT):
        return f"Posterior samples vary as they should: {numbers}.", True
    kind = "little: intervals hold less than they say" if spread > 1 else "much: intervals are wider than need be"
    return f"Posterior samples vary too {kind} ({numbers}).", False


def _verdict_on_residual(found):
    sd, error = found["residual"]["sd"], found["residual"]["sd_error"]
    if abs(sd - 1) < max(CLEAR * error, SLIGHT):
        return f"Posterior samples leave a residual of {sd:.3f} ± {error:.3f} σ_tn, as noise of that level would.", True
    return f"Posterior samples leave a residual of {sd:.3f} ± {error:.3f} σ_tn, not 1: is σ_tn as stated?", False


def in_words(numbers: dict[str, Any]) -> str:
    """The numbers of an evaluation, in a table a kind."""
    parts = [_denoising(numbers["mse"]), _distances(numbers), _proximal(numbers["proximal"])]
    parts += [_calibration(numbers[name]) for name in ("calibration", "calibration_by_frames") if numbers.get(name)]
    parts.append("\n".join(f"{'+' if good else '!'} {text}" for text, good in verdicts(numbers)))
    return "\n\n".join(part for part in parts if part)


def _denoising(mse):
    rows = [("σ", mse["sigma"], "{:.3g}"), ("MSE", mse["value"], "{:.3g}"), ("PSNR, dB", mse["psnr"], "{:.1f}")]
    if "oracle" in mse:
        rows.append(("MSE, exact", mse["oracle"], "{:.3g}"))
    if "from_noisy" in mse:
        rows.append(("MSE by noisy", mse["from_noisy"]["value"], "{:.3g}"))
    cell = lambda value, shape: f"{'–' if value is None else shape.format(value):>9}"
    lines = [f"  {name:<13}" + "".join(cell(value, shape) for value in values) for name, values, shape in rows]
    if "from_noisy" in mse:
        lines.append(f"  – {NOT_IDENTIFIABLE} from noisy images: below σ = {mse['identifiable_above']:.3g}")
    return "\n".join([f"Denoising {mse['n']} {mse['reference']}", *lines])


def _distances(numbers):
    entry = numbers["frechet"]
    n = entry["n"]
    lines = [
        f"{n['generated']} samples beside {n['reference']} {entry['reference']}, by {entry['features']}",
        f"  {'':<11}{'value':>10}{'matched':>10}{'floor':>10}",
    ]
    number = lambda value: f"{'–' if value is None else f'{value:.4g}':>10}"
    for name in FLOORED:
        e = numbers[name]
        lines.append(f"  {name:<11}{number(e['value'])}{number(e['matched'])}{number(e['floor'])}  {MEANING[name]}")
    if entry["floor_n"]:
        f = entry["floor_n"]
        lines.append(
            f"  floor: {f['generated']} of the real images beside {f['reference']} others; matched: as many samples; "
            f"means of {entry['splits']}"
        )
    if entry["warning"]:
        lines.append(f"  warning: {entry['warning']}")
    return "\n".join(lines)


def _proximal(entry):
    if not entry:
        return ""
    floor = "" if entry["floor"] is None else f", between halves of these {entry['floor']:.3g}"
    return (
        f"Proximal distance {entry['value']:.3g}{floor}\n  of samples, noised to σ_tn, from "
        f"{entry['n']['reference']} {entry['reference']}"
    )


def _calibration(found):
    lines = [f"Posterior samples, {found['draws']} of each of {found['n']} noisy images"]
    levels = found.get("levels")
    for i, level in enumerate(levels["level"] if levels else ()):
        lines.append(
            f"  the central {level:.0%} hold {levels['coverage'][i]:.1%} ± {levels['standard_error'][i]:.1%} "
            f"of {found['reference']} (calibrated: {levels['expected'][i]:.1%})"
        )
    residual = found["residual"]
    lines.append(f"  residual: {residual['sd']:.3f} ± {residual['sd_error']:.3f} σ_tn (calibrated: 1)")
    if "correlation" in residual:
        lines.append(
            f"  its neighbours: correlation {residual['correlation']:.3f} ± {residual['correlation_error']:.3f} (0)"
        )
    return "\n".join(lines)
