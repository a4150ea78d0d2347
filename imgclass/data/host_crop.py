"""Random resized crops on the host, out of the whole original picture.

`augment.crop_on='host'`: what the device would cut out of a picture brought to `load_size`, the
stream feed's threads or processes cut out of the original, and resize once. Which box a row gets
depends on (seed, step, row) alone, as on the device; they are other boxes than the device's.
"""

import dataclasses
import math

import numpy as np

from imgclass.data import decode

_STREAM = 2**33  # keeps these draws apart from those of `order` and `sampling`


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """How crops are drawn: the run's seed, its global batch, and keys of the config."""

    seed: int
    batch_size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    size: tuple[int, int]
    interpolation: str

    def drawn(self, step: int) -> np.ndarray:
        """Returns f64[batch_size, 4] in [0, 1): what a step's boxes are made of, see `window`."""
        key = np.array([self.seed, step], np.uint64)
        words = np.random.Philox(key=key, counter=[0, 0, 0, _STREAM]).random_raw(
            4 * self.batch_size
        )
        return (words >> np.uint64(11)).reshape(-1, 4) * 2.0**-53

    def boxes(self, drawn: np.ndarray, height: int, width: int) -> list[decode.Box]:
        """Returns the boxes that f64[k, 4] of `drawn` stand for in one picture."""
        return [window(row, (height, width), self.scale, self.ratio) for row in drawn]

    def resized(self, pixels: np.ndarray) -> np.ndarray:
        """Brings those of a box, uint8[h, w, C], to uint8[*size, C]."""
        return decode.resize(pixels, self.size, interpolation=self.interpolation)


def window(
    drawn: np.ndarray, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> decode.Box:
    """Returns the box that four numbers stand for, drawn as `crop.draw_box` does.

    Its edges lie between pixels, as torchvision's do, and the filter sees nothing beyond them.

    Args:
      drawn: f64[4] in [0, 1): for area, shape, top and left.
      size: height and width of the picture.
      scale: least and greatest share of its area.
      ratio: least and greatest width/height.

    Returns:
      top, left, height, width; at least a pixel, inside the picture.
    """
    (h, w), (for_area, for_ratio, for_top, for_left) = size, drawn.tolist()
    area = h * w * (scale[0] + (scale[1] - scale[0]) * for_area)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = math.exp(low + (high - low) * for_ratio)
    height, width = math.sqrt(area / aspect), math.sqrt(area * aspect)
    fit = min(1.0, h / height, w / width)
    rows, columns = (
        min(max(round(side * fit), 1), most) for side, most in ((height, h), (width, w))
    )
    return int(for_top * (h - rows + 1)), int(for_left * (w - columns + 1)), rows, columns
