"""Every setting of a run, with its default; config files change what they need."""

import difflib
import json
import math
from typing import Any

from ml_collections import ConfigDict

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.diffusion.reverse_steps import REVERSE_STEPS, STOCHASTIC_STEPS

Config = Any  # a ConfigDict, whose attributes a type checker cannot know
NETWORKS = ("unet", "mlp", "edm")
EMBEDDINGS = ("full", "clamped", "none")
DTYPES = ("float32", "bfloat16")


def default_config() -> Config:
    """All settings, locked: an unknown key is an error. Noise levels are in units of images in [-1, 1]."""
    config = ConfigDict()
    config.seed = 0  # of the weights, the order of the data and the noise of training
    config.init_from = ""  # a run, an exported model or hub:USER/NAME to start from: its weights, not its step
    config.debug_trace = False  # write every step's loss, gradient and batch to trace.txt, to the last bit
    config.data = _data()
    config.model = _model()
    config.training = _training()
    config.ambient = _ambient()
    config.consistency = _consistency()
    config.refresh = _refresh()
    config.sampling = _sampling()
    config.evaluation = _evaluation()
    return config.lock()


def _data():
    c = ConfigDict()
    c.source = "digits"  # digits, mixture_2d (16d, 64d), tfds:NAME@SPLIT; a folder, pattern, .tar, .npz or .npy
    c.sigma_tn = 0.5  # noise of the training images
    c.sigma_units = ""  # of sigma_tn, here and in an .npz, and the table: images in [-1, 1]; or "data": stored values
    c.sigma_from = ""  # instead of sigma_tn: "auto" estimates it; TABLE.csv states it for each file, 0 for clean ones
    c.channel_sigmas = ()  # instead, of each channel in stored values: channels are scaled to equal noise
    c.photons = ()  # (gain, offset, read noise) in stored values: noise that grows with the signal is stabilised first
    c.noisy_already = False  # True: the images carry that noise already, and none is added
    c.clean_fraction = 0.0  # part of the images left clean, if noise is added
    c.noise_seed = 0  # of noise that is added, and of which images are left clean
    c.held_out = 1 / 6  # part of the images never trained on
    c.split_seed = 0  # which images these are
    c.range = ()  # stored values that become −1 and 1; () infers them from the dtype
    c.range_percentiles = ()  # or from the values themselves, e.g. (0.1, 99.9)
    c.image_size = 0  # crop and resize clean images to this side; 0 keeps them
    c.crop = 0  # train on squares of this side, cut at random from images of any size; 0 takes whole images
    c.lenient = False  # leave out files that cannot be used, and list them in excluded.csv, instead of refusing all
    c.flip = False  # mirror half of the images
    c.turn = False  # turn images by random quarter turns
    c.num_examples = 10_000  # of synthetic data
    return c


def _model():
    c = ConfigDict()
    c.network = "unet"  # unet, for images; mlp, for vectors; edm: the network of EDM as published, for its weights
    c.channels = 128  # of the unet, at full resolution
    c.channel_multipliers = (2, 2, 2)  # of channels, at each resolution; each but the first halves the image
    c.blocks_per_resolution = 4  # residual blocks on the way down, and one more on the way up
    c.attention_resolutions = (16,)  # image heights at which blocks attend; () for none
    c.dropout = 0.0  # of the unet: probability in every block
    c.noise_units = False  # of the unet: it sees detail, and the ends of the range, in units of the noise
    c.patch_components = 0  # a mixture of so many, of patches or of vectors, that the network corrects; 0 for none
    c.patch_side = 4  # pixels of a patch of that mixture
    c.width = 128  # of the mlp: hidden units
    c.depth = 3  # of the mlp: hidden layers
    c.fourier_features = 0  # of the mlp: frequencies of the input beside x itself
    c.fourier_scale = 1.0  # standard deviation of those frequencies
    c.sigma_data = 0.0  # of the preconditioning, as of an imported network; 0 estimates it from the data
    c.class_conditional = False  # tell the network the classes of the images
    c.label_dropout = 0.1  # part of the labels hidden in training, so that the model also works without
    c.embedding = "full"  # how the network learns of σ below the data's noise: full, clamped, none
    c.dtype = "float32"  # of the computation; weights are float32
    c.remat = False  # keep convolutions, compute the rest again in the backward pass: less memory, but not on a CPU
    return c


def _training():
    c = ConfigDict()
    c.steps = 1000  # of training, one batch each
    c.batch_size = 64  # images a step, over all devices
    c.accumulate = 0  # micro-batches of a batch that does not fit; 0 for none. A CPU takes over ten times as long
    c.shards = 0  # devices that share one copy of weights, moments and average; 0 holds one on each device
    c.learning_rate = 1e-3  # at its height: it warms up, then falls as a cosine
    c.warmup_steps = 100  # over which the learning rate rises
    c.max_grad_norm = 1.0  # longer gradients are scaled down to it
    c.ema_decay = 0.999  # a step, of the average of the weights that sampling and denoising use
    c.log_every = 50  # steps from one line of metrics.jsonl to the next
    c.save_every = 250  # steps from one checkpoint, and one score on held-out images, to the next
    c.keep_checkpoints = 2  # the newest so many are kept, and the best one
    return c


def _ambient():
    c = ConfigDict()
    c.p_mean = -1.2  # the training law of ln σ, truncated at the data's noise (EDM, table 1)
    c.p_std = 1.2  # the standard deviation of that law
    c.sigma_max = 80.0  # its upper end
    c.weight_cap = 16.0  # of 1/a² (Ambient Omni)
    c.near_fraction = 0.0  # part of the batch drawn log-uniform in [1.02, 2.5]·σ_tn
    c.sigma_first = False  # draw σ_t first, then an image with less noise: of mixed sets, cleaner ones more often
    c.antithetic = False  # every image with η and −η: less variance near σ_tn, twice the calls
    return c


def _consistency():
    c = ConfigDict()
    c.weight = 4.0  # 0 leaves the term out: ambient score matching alone
    c.start = 200  # first step with the term
    c.stop = 0  # first step without it again; 0 keeps it to the end
    c.anchor = "below"  # upper side anywhere below σ_tn (the theorem), or "above" it (the code of the paper)
    c.ramp_steps = 200  # from no weight to full weight
    c.batch_fraction = 0.0625  # every sixteenth row
    c.sigma_min = 0.05  # lowest level it reaches
    c.anneal = 0.6  # part of the remaining training over which it goes down there
    c.max_log_step = 0.5  # of ln σ between the two sides
    c.step = "ancestral"  # or midpoint, corrected: the identity does not hold along the ODE
    c.roll_steps = 1  # from the data's noise down to the upper side
    c.ema_teacher = True  # the average of the weights draws the lower side; False: the weights themselves
    c.gradient = "low"  # or both: whether the upper side learns too
    c.draws = 1  # of the lower side; more, and at least 2 if not antithetic, make the mean over all their pairs
    c.antithetic = True  # draws in mirrored pairs, which cancels the noise that is odd in them
    c.ridge = 0.3  # 0 is exact and can diverge, 1 the squared difference of one draw (docs/maths.md, section 4)
    return c


def _refresh():
    c = ConfigDict()
    c.weight = 0.0  # of the denoising loss on posterior draws; 0 leaves the term out
    c.start = 200  # first step with the term: the buffer is filled then
    c.stop = 0  # step from which on the draws and their weights stay as they are; 0 never
    c.capacity = 4096  # draws kept
    c.every = 16  # steps from one refresh to the next
    c.rows = 8  # draws replaced at each, the oldest first
    c.num_steps = 12  # of the reverse process down to sigma_min: 16 where that is less than σ_tn/14
    c.sigma_min = 0.05  # its last level; the term trains from half of it up to 1.1·σ_tn
    c.step = "corrected"  # or midpoint; ancestral loses variance and collapses
    c.relaxation = 0.0  # ω of the weights of the draws by maximum likelihood, below 2; 0 keeps them equal
    c.batch_fraction = 0.1875  # rows of the term, as a part of the batch
    return c


def _sampling():
    c = ConfigDict()
    c.num_steps = 18  # levels of the grid, both ends included
    c.sigma_min = 0.02  # the last level, at which the denoiser ends the process
    c.sigma_max = 80.0  # the first level, where an image is noise alone
    c.rho = 7.0  # how strongly the levels crowd at low noise (EDM, equation 5); 1 is uniform
    c.step = "heun"  # euler, heun, ancestral, midpoint or corrected
    return c


def _evaluation():
    c = ConfigDict()
    c.sigmas = (0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.5)  # levels of the denoising curve
    c.num_images = 512  # held-out images of the denoising curve
    return c


def check_config(config: Config) -> None:
    """Refuse what cannot work, before anything is read or compiled.

    Raises:
        InputError: naming the key and the mend.
    """
    if not isinstance(config, ConfigDict):
        raise InputError(f"get_config must return a ConfigDict (got {type(config).__name__})")
    flat, known = flatten(config), flatten(default_config())
    for key in flat:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise InputError(f"unknown config key {key!r}: did you mean {near[0]!r}?")
    for key, default in known.items():
        if key not in flat:
            raise InputError(
                f"config key {key!r} is missing: start from tweedie_diffusion.training.config.default_config"
            )
        _check_type(key, flat[key], default)
    for key, (allowed, words) in _RULES.items():
        if not allowed(flat[key]):
            raise InputError(f"{key} must be {words} (got {flat[key]!r})")
    if flat["sampling.sigma_min"] >= flat["sampling.sigma_max"]:
        raise InputError("sampling.sigma_min must lie below sampling.sigma_max")
    _check_data(flat)
    if not flat["data.sigma_units"] and flat["ambient.sigma_max"] <= flat["data.sigma_tn"]:
        raise InputError("ambient.sigma_max must exceed data.sigma_tn: training happens above the data's noise")
    if 0 < flat["consistency.stop"] <= flat["consistency.start"]:
        raise InputError("consistency.stop must exceed consistency.start; 0 keeps the term to the end")
    if flat["consistency.weight"] and flat["consistency.draws"] == 1 and not flat["consistency.antithetic"]:
        raise InputError(
            "one plain draw is biased by its spread: set consistency.draws=2, or consistency.antithetic=True"
        )
    if flat["model.noise_units"] and flat["model.embedding"] != "full":
        raise InputError(
            "model.noise_units tells the network of σ at every level: set model.embedding=full, or leave it out"
        )
    if 0 < flat["refresh.stop"] <= flat["refresh.start"]:
        raise InputError("refresh.stop must exceed refresh.start; 0 renews the draws to the end")
    if flat["refresh.weight"] and flat["refresh.capacity"] < flat["training.batch_size"]:
        raise InputError(
            "refresh.capacity must be at least training.batch_size: the buffer is filled a batch at a time"
        )
    if flat["refresh.weight"] and flat["refresh.rows"] > flat["training.batch_size"]:
        raise InputError("refresh.rows must not exceed training.batch_size: the draws belong to images of the batch")


def _check_data(flat):
    """Settings of the noise that exclude one another."""
    if flat["data.noisy_already"] and flat["data.clean_fraction"]:
        raise InputError(
            "data.clean_fraction needs noise that is added here: state clean images as 0 in an .npz or a table"
        )
    if flat["data.range"] and flat["data.range_percentiles"]:
        raise InputError("data.range and data.range_percentiles both say what becomes −1 and 1: leave one of them ()")
    sources = [key for key in ("data.sigma_from", "data.channel_sigmas", "data.photons") if flat[key]]
    if len(sources) > 1:
        raise InputError(f"{' and '.join(sources)} all say what the noise is: leave all but one empty")
    if sources and not flat["data.noisy_already"]:
        raise InputError(f"{sources[0]} describes noise that the images carry: set data.noisy_already=True")


def may_change(key: str) -> bool:
    """Whether a run may go on with another value: of what decides neither its steps nor its data.

    The data may have moved: its contents are compared for themselves.
    """
    return key in _MAY_CHANGE or key.startswith("evaluation.")


def flatten(config) -> dict[str, Any]:
    """{'data.sigma_tn': 0.5, …}."""
    flat = {}
    for key, value in config.items():
        flat |= {f"{key}.{k}": v for k, v in flatten(value).items()} if isinstance(value, ConfigDict) else {key: value}
    return flat


def to_json(config: Config) -> str:
    """The config as JSON, one key a line."""
    return json.dumps(flatten(config), indent=1) + "\n"


def from_json(text: str) -> Config:
    """The config `to_json` wrote."""
    config = default_config()
    with config.unlocked():
        config.update_from_flattened_dict(
            {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        )
    return config


def difference(old: str, new: str) -> list[str]:
    """The keys whose values differ between two texts of `to_json`, as 'key: old -> new'; None where it is missing.

    A key that is younger than the old text was off then: no difference if it is off now.
    """
    before, after = json.loads(old), json.loads(new)
    differ = lambda k: before.get(k) != after.get(k) and (k in before or bool(after[k]))
    return [f"{k}: {before.get(k)!r} -> {after.get(k)!r}" for k in sorted(before | after) if differ(k)]


def _check_type(key, value, default):
    """Same type as the default; a whole number may stand for a float."""
    good = isinstance(value, type(default)) and (isinstance(value, bool) == isinstance(default, bool))
    if isinstance(default, float):
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(default, tuple):
        good = isinstance(value, tuple | list) and all(isinstance(v, int | float) for v in value)
    if not good:
        raise InputError(f"{key} must be of type {type(default).__name__} (got {value!r})")


def _one_of(names):
    return (lambda v: v in names), f"one of {', '.join(name or 'nothing' for name in names)}"


_MAY_CHANGE = (
    "debug_trace",
    "data.source",
    "model.remat",
    "training.log_every",
    "training.save_every",
    "training.keep_checkpoints",
    "training.shards",
)
_positive = (lambda v: v > 0), "> 0"
_not_negative = (lambda v: v >= 0), ">= 0"
_share = (lambda v: 0 <= v <= 1), "between 0 and 1"
_open_share = (lambda v: 0 < v < 1), "between 0 and 1, both excluded"
_counts = (lambda v: len(v) > 0 and all(isinstance(n, int) and n > 0 for n in v)), "whole numbers > 0"
_RULES = {
    "seed": _not_negative,
    "data.sigma_tn": ((lambda v: v >= 0), ">= 0, a standard deviation in units of [-1, 1]"),
    "data.sigma_units": _one_of(("", "data")),
    "data.sigma_from": ((lambda v: v in ("", "auto") or v.endswith(".csv")), "empty, auto, or a path to a .csv"),
    "data.channel_sigmas": ((lambda v: all(s > 0 for s in v)), "noise levels > 0, one a channel"),
    "data.photons": (
        (lambda v: not v or (len(v) == 3 and v[0] > 0 and v[2] >= 0)),
        "() or (gain > 0, offset, read noise >= 0)",
    ),
    "data.range_percentiles": (
        (lambda v: not v or (len(v) == 2 and 0 <= v[0] < v[1] <= 100)),
        "() or (low, high) with 0 <= low < high <= 100",
    ),
    "data.crop": _not_negative,
    "data.clean_fraction": _share,
    "data.noise_seed": _not_negative,
    "data.held_out": _open_share,
    "data.split_seed": _not_negative,
    "data.range": ((lambda v: len(v) in (0, 2)), "() or (low, high)"),
    "data.image_size": _not_negative,
    "data.num_examples": _positive,
    "model.network": _one_of(NETWORKS),
    "model.channels": _positive,
    "model.channel_multipliers": _counts,
    "model.blocks_per_resolution": _positive,
    "model.dropout": ((lambda v: 0 <= v < 1), "in [0, 1)"),
    "model.label_dropout": ((lambda v: 0 <= v < 1), "in [0, 1)"),
    "model.patch_components": ((lambda v: v == 0 or v >= 8), "0, or 8 and more"),
    "model.patch_side": ((lambda v: v >= 2), ">= 2"),
    "model.sigma_data": _not_negative,
    "model.width": _positive,
    "model.depth": _positive,
    "model.fourier_features": _not_negative,
    "model.fourier_scale": _positive,
    "model.embedding": _one_of(EMBEDDINGS),
    "model.dtype": _one_of(DTYPES),
    "training.steps": _positive,
    "training.batch_size": _positive,
    "training.accumulate": _not_negative,
    "training.shards": _not_negative,
    "training.learning_rate": _positive,
    "training.warmup_steps": _not_negative,
    "training.max_grad_norm": _positive,
    "training.ema_decay": ((lambda v: 0 <= v < 1), "in [0, 1)"),
    "training.log_every": _positive,
    "training.save_every": _positive,
    "training.keep_checkpoints": _positive,
    "ambient.p_std": _positive,
    "ambient.sigma_max": _positive,
    "ambient.weight_cap": ((lambda v: v >= 1), ">= 1 (1 is plain ADSM)"),
    "ambient.near_fraction": _share,
    "consistency.weight": _not_negative,
    "consistency.start": _not_negative,
    "consistency.stop": _not_negative,
    "consistency.anchor": _one_of(("below", "above")),
    "consistency.ramp_steps": _not_negative,
    "consistency.batch_fraction": (
        (lambda v: v > 0 and (1 / v).is_integer()),
        "1 or 0.5 or 0.25, one part of a whole number",
    ),
    "consistency.sigma_min": _positive,
    "consistency.anneal": _share,
    "consistency.max_log_step": _positive,
    "consistency.step": _one_of(STOCHASTIC_STEPS),
    "consistency.roll_steps": _positive,
    "consistency.gradient": _one_of(("low", "both")),
    "consistency.draws": _positive,
    "consistency.ridge": _share,
    "refresh.weight": _not_negative,
    "refresh.start": _not_negative,
    "refresh.stop": _not_negative,
    "refresh.capacity": _positive,
    "refresh.every": _positive,
    "refresh.rows": _not_negative,
    "refresh.num_steps": _positive,
    "refresh.sigma_min": _positive,
    "refresh.step": _one_of(STOCHASTIC_STEPS),
    "refresh.relaxation": ((lambda v: 0 <= v < 2), "in [0, 2)"),
    "refresh.batch_fraction": ((lambda v: 0 < v <= 1), "in (0, 1]"),
    "sampling.num_steps": ((lambda v: v >= 2), ">= 2"),
    "sampling.sigma_min": _positive,
    "sampling.rho": _positive,
    "sampling.step": _one_of(REVERSE_STEPS),
    "evaluation.sigmas": ((lambda v: len(v) > 0 and all(0 < s < math.inf for s in v)), "noise levels > 0"),
    "evaluation.num_images": _positive,
}
