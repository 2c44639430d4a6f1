"""The columns of the table that models of images have beside those of sequences."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What is read: images [B,H,W,C]. `models.options.Options` takes these columns up."""

    image_size: int = 224  # the side in pixels that the tables are made for
    channels: int = 3  # C
