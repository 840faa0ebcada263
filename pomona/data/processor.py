"""What tells others how a model's pictures were made: the processor of transformers that is saved beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pomona.ground.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.image_processing_utils import BaseImageProcessor

BICUBIC = 3
"""As `PIL.Image.Resampling` counts."""


def image_processor(config: PretrainedConfig, size: int, channels: int) -> BaseImageProcessor:
    """The processor of a model's family that makes the same `pixel_values` of a file as `read_images` and
    `Images.batch`: the middle square of `size` pixels, in [-1, 1].

    Of a file in colours, one for grey pictures (one channel) expects that it was made grey.

    Raises:
        UnsupportedModel: transformers has no processor of pictures for this family.
    """
    from transformers.models.auto.image_processing_auto import (
        IMAGE_PROCESSOR_MAPPING_NAMES,
        get_image_processor_class_from_name,
    )

    name = IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type, {}).get("pil")
    if name is None:
        raise UnsupportedModel(
            f"transformers has no processor of pictures for {config.model_type}",
            needs="one that is saved with the model",
            found="none",
            do="choose another shape",
        )
    made: Any = get_image_processor_class_from_name(name)
    processor: BaseImageProcessor = made(
        do_convert_rgb=channels == 3,
        do_resize=True,
        size={"shortest_edge": size},
        resample=BICUBIC,
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[0.5] * channels,
        image_std=[0.5] * channels,
    )
    return processor
