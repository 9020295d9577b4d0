"""A small convolutional classifier of images, whose last hidden layer is what images are compared by."""

import flax.linen as nn
import jax
import jax.numpy as jnp

LEAST_SIDE = 8  # pixels
WIDEST = 128  # channels


class Classifier(nn.Module):
    """x [B, H, W, C] -> logits [B, num_classes] and features [B, size].

    Two convolutions at each resolution, the channels doubled where it is halved. The mean over pixels then makes the
    features independent of the size of the image.

    Attributes:
        num_classes: of the logits.
        halvings: of the resolution; `halvings_of` leaves 4 to 7 pixels on the shorter side.
        channels: at full resolution.
        size: of the features.
    """

    num_classes: int
    halvings: int = 1
    channels: int = 32
    size: int = 64

    @nn.compact
    def __call__(self, x) -> tuple[jax.Array, jax.Array]:
        check_size(x.shape[1:], self.halvings)
        h = x
        for i in range(self.halvings + 1):
            if i:
                h = nn.avg_pool(h, (2, 2), (2, 2))
            for _ in range(2):
                h = nn.Conv(min(self.channels << i, WIDEST), (3, 3))(h)
                h = nn.silu(nn.GroupNorm(num_groups=8)(h))
        features = nn.silu(nn.Dense(self.size, name="features")(jnp.mean(h, axis=(1, 2))))
        return nn.Dense(self.num_classes, name="logits")(features), features


def halvings_of(shape: tuple[int, ...]) -> int:
    """How often images [H, W, C] of at least 8×8 are halved.

    Raises:
        ValueError: as `check_size`.
    """
    check_size(shape)
    return min(shape[:2]).bit_length() - 3


def check_size(shape: tuple[int, ...], halvings: int = 1) -> None:
    """Raise ValueError unless `shape` is [H, W, C] of at least 8×8, and of 4×4 when it is halved."""
    least = max(LEAST_SIDE, 4 << halvings)
    if len(shape) != 3 or min(shape[:2]) < least:
        raise ValueError(
            f"the classifier takes images of at least {least}×{least} (got shape {list(shape)}): "
            "compare by pixels or pca"
        )
