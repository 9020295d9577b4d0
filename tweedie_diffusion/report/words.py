"""An evaluation as text: what a terminal shows."""

from typing import Any

from tweedie_diffusion.report.evaluation import FLOORED

NOT_IDENTIFIABLE = "not identifiable"
MEANING = {
    "frechet": "Fréchet distance, 0 is best",
    "kid": "kernel distance (KID), 0 is best",
    "precision": "samples among real images",
    "recall": "real images among samples",
    "density": "how densely samples lie there, 1 if alike",
    "coverage": "real images that have a sample near",
}


def in_words(numbers: dict[str, Any]) -> str:
    """The numbers of an evaluation, in a table a kind."""
    parts = [_denoising(numbers["mse"]), _distances(numbers), _proximal(numbers["proximal"])]
    parts += [_calibration(numbers[name]) for name in ("calibration", "calibration_by_frames") if numbers.get(name)]
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
            f"  floor: {f['generated']} of the real images beside {f['reference']} others; matched: as many samples"
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
