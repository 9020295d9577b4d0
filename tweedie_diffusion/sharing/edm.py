"""Networks of EDM from their tensors: the DDPM++ architecture of its repository, with EDM's preconditioning.

The tensors do not tell with which preconditioning they were trained: those of its VP and VE baselines look the same,
and are of no use here. Its ADM and NCSN++ networks are others, and refused.
"""

import re
from pathlib import Path

import jax
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.tensor_files import PICKLES, read_tensors
from tweedie_diffusion.sharing.card import About
from tweedie_diffusion.sharing.export import check_target, write_model
from tweedie_diffusion.training.config import Config, default_config, flatten
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.foreign import check_foreign
from tweedie_diffusion.training.trained import TrainedModel

SIGMA_DATA = 0.5  # of all networks of EDM (its table 1), whatever their data
SIGMA_MIN = 0.002  # of its sampler
STEPS = {32: 18, 64: 40}  # of its sampler, up to an image size (35 and 79 evaluations)
UNUSED = "map_augment.weight"  # of the augmentations of its training: 0 for an image as it is
OTHERS = {"out_norm.": "ADM", "map_noise.": "NCSN++", "aux_residual": "NCSN++"}  # what only they have


def import_edm(weights: Path, folder: Path) -> TrainedModel:
    """Write the model of EDM tensors to a folder, as `export` writes one.

    Args:
        weights: a .safetensors or .npz with the state_dict of an EDMPrecond of a SongUNet, as read by `read_tensors`.
        folder: where the model goes.

    Raises:
        InputError: if these are not the tensors of such a network, or the folder holds something else.
    """
    check_target(folder)
    if weights.suffix.lower() in PICKLES:
        raise InputError(_without_pickle(weights))
    tensors = _network_of(read_tensors(weights), weights)
    config, facts = _described(tensors, weights)
    try:
        check_foreign(config, facts)
    except ValueError as error:
        raise InputError(f"{weights} holds no DDPM++ network of EDM ({error})") from error
    network = build_network(config.model, facts)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), network, config.model, facts))
    params = _as_params(tensors, shapes, facts.shape[0], weights)
    model = TrainedModel(config, facts, denoiser_maker(network, config.model, facts), params)
    write_model(model, folder, About(folder.resolve().name, imported=weights.name))
    return model


def settings_to_go_on(model: TrainedModel) -> list[str]:
    """The flags of a config that trains an imported model further."""
    default = flatten(default_config().model)
    found = flatten(model.config.model)
    found.pop("label_dropout")  # with the usual one training teaches it images without a class
    changed = {key: value for key, value in found.items() if value != default[key]}
    return [f"--config.model.{key}={str(value).replace(' ', '')!r}" for key, value in changed.items()]


def _without_pickle(path):
    code = (
        "import pickle, numpy; net = pickle.load(open('{pkl}', 'rb'))['ema']; "
        "numpy.savez('{npz}', **{{k: v.cpu().numpy() for k, v in net.state_dict().items()}})"
    )
    line = code.format(pkl=path.name, npz=path.with_suffix(".npz").name)
    return (
        f"{path} is a pickle, which can run anything when it is read. Where you trust it, in an environment apart that "
        f'has PyTorch and the code of NVlabs/edm, write its tensors by  python -c "{line}"  and import these'
    )


def _network_of(tensors: dict[str, np.ndarray], path) -> dict[str, np.ndarray]:
    """The tensors that a network needs, by their names in it, as finite float32."""
    inner = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    needed = {name: tensor for name, tensor in inner.items() if name != UNUSED}
    for part, kind in OTHERS.items():
        if any(part in name for name in needed):
            raise InputError(f"{path} holds a network of the kind {kind}: only DDPM++ can be imported")
    for name in [name for name in needed if name.endswith(".resample_filter")]:
        if not np.array_equal(needed.pop(name), np.full((1, 1, 2, 2), 0.25)):
            raise InputError(f"{path}: {name} is not the mean of 2×2 pixels: only DDPM++ can be imported")
    return {name: _finite(tensor, f"{path}: {name}") for name, tensor in needed.items()}


def _finite(tensor, name) -> np.ndarray:
    """As float32, in which a large float64 is infinite."""
    if tensor.dtype.kind != "f" or not tensor.size:
        raise InputError(f"{name} holds something else than finite floats")
    with np.errstate(over="ignore"):
        found = tensor.astype(np.float32)
    if not np.isfinite(found).all():
        raise InputError(f"{name} holds something else than finite floats")
    return found


def _described(tensors: dict[str, np.ndarray], path) -> tuple[Config, DataFacts]:
    """The settings and the data of the network that such tensors belong to."""
    first = [name for name in tensors if re.fullmatch(r"enc\.(\d+)x\1_conv\.weight", name)]
    convolutions = [name for name in tensors if re.fullmatch(r"enc\.\d+x\d+_(conv|block\d+\.conv1)\.weight", name)]
    if len(first) != 1 or any(tensors[name].ndim != 4 for name in convolutions):
        raise InputError(f"{path} holds no DDPM++ network of EDM: it needs one enc.RxR_conv.weight [C, 3, 3, 3]")
    side, (channels, image_channels, *_) = int(first[0].split(".")[1].split("x")[0]), tensors[first[0]].shape
    blocks = lambda side: [n for n in tensors if re.fullmatch(rf"enc\.{side}x{side}_block\d+\.conv1\.weight", n)]
    sides = [side >> level for level in range(side.bit_length()) if blocks(side >> level)]
    widths = [tensors[blocks(s)[0]].shape[0] for s in sides]
    if not sides or channels < 4 or any(width % channels for width in widths):
        raise InputError(f"{path} holds no DDPM++ network of EDM: it has blocks of {widths} channels, and {channels}")
    config = default_config()
    model, classes = config.model, _classes(tensors)
    model.network, model.sigma_data, model.class_conditional = "edm", SIGMA_DATA, classes > 0
    model.channels, model.channel_multipliers = channels, tuple(width // channels for width in widths)
    model.blocks_per_resolution = len(blocks(side))
    model.attention_resolutions = tuple(s for s in sides if f"enc.{s}x{s}_block0.qkv.weight" in tensors)
    model.label_dropout = 0.0 if classes else model.label_dropout  # its networks know no image without a class
    config.data.source, config.data.sigma_tn = path.name, 0.0
    config.sampling.sigma_min = SIGMA_MIN
    config.sampling.num_steps = next((steps for most, steps in STEPS.items() if side <= most), max(STEPS.values()))
    shape = (side, side, image_channels)
    return config, DataFacts(shape, SIGMA_DATA, 0.0, 0.0, classes, Scaling(0.0, 255.0, "uint8"), 0, 0)


def _classes(tensors):
    labels = tensors.get("map_label.weight")
    return labels.shape[-1] if labels is not None and labels.ndim == 2 else 0  # another is left over, and refused


def _as_params(tensors: dict[str, np.ndarray], shapes, side: int, path):
    """The tensors as parameters of the shapes given, each used once."""
    left = dict(tensors)

    def take(keys, like):
        name = _name_in_edm([key.key for key in keys], side)
        if name not in left:
            raise InputError(f"{path} lacks {name}, which a DDPM++ network of this size has")
        found = _turned(left.pop(name), keys[-1].key)
        if found.shape != like.shape:
            raise InputError(f"{path}: {name} gives {list(found.shape)}, and {list(like.shape)} belongs there")
        return np.ascontiguousarray(found)

    params = jax.tree_util.tree_map_with_path(take, shapes)
    if left:
        raise InputError(f"{path} holds {min(left)}, which a DDPM++ network of this size has not")
    return params


def _name_in_edm(keys: list[str], side: int) -> str:
    """enc_1_block0/conv0/kernel as enc.16x16_block0.conv0.weight, for images of 32 pixels."""
    module, *inner, kind = keys
    level = re.fullmatch(r"(enc|dec)_(\d+)_(\w+)", module)
    if level:
        length = side >> int(level[2])
        module = f"{level[1]}.{length}x{length}_{level[3]}"
    elif module == "map":
        module, inner = f"map_{inner[0]}", []
    return ".".join([module, *inner, "bias" if kind == "bias" else "weight"])


def _turned(tensor: np.ndarray, kind: str) -> np.ndarray:
    """From [out, in, height, width] or [out, in] to [height, width, in, out] or [in, out]; 1×1 is [in, out]."""
    if kind != "kernel":
        return tensor
    if tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
